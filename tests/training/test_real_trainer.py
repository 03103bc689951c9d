"""The example script as a real trainer, whole and broken: what goes wrong is caught, and said where.

Each fault is an edit of the script that somebody's own script has had; `../shared` names the threads by id.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.training.dataset import write_dataset

SCRIPT = Path(__file__).parents[2] / "examples" / "train_cogvideox_i2v.py"
SAMPLER = SCRIPT.with_name("sample_cogvideox_i2v.py")
ARGUMENTS = (
    "--pretrained_model_name_or_path {reference} --instance_data_root {dataset} --output_dir {output} "
    "--learning_rate {lr} --max_train_steps {steps} --checkpointing_steps 1 --seed {seed}"
)


def command(script: Path, *more: str) -> str:
    return " ".join([f"'{sys.executable}' '{script}'", ARGUMENTS, *more])


@pytest.mark.parametrize("kind", ["lora", "sft"])
@pytest.mark.parametrize("claim", ["zero_lr_identity", "learning_moves"])
def test_healthy_script_keeps_what_it_must_and_moves_what_it_claims(judged, healthy, claim, kind):
    verdict = judged(claim, healthy, parameters={"trainer": command(SCRIPT, f"--training_type {kind}")})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["steps"] == 2


def test_script_under_accelerate_launch_is_watched(judged, healthy):
    launch = f"'{sys.executable}' -m accelerate.commands.launch --num_processes 1 --num_machines 1"
    text = f"{launch} --mixed_precision no --dynamo_backend no --cpu '{SCRIPT}' {ARGUMENTS} --use_ema"

    verdict = judged("zero_lr_identity", healthy, parameters={"trainer": text})

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert (verdict.measurements["steps"], verdict.measurements["largest_rate"]) == (2, 0.0)


SAVE = "        pipeline.save_pretrained(args.output_dir)\n"
SAVE_LORA = "        save_lora(pipeline, transformer, args.output_dir)\n"
ADAMW = "torch.optim.AdamW(\n"
STEP = "            optimizer.step()\n"
TRAIN = "    transformer.train()\n"
UNWRAP = "    transformer = accelerator.unwrap_model(transformer)\n"
TO_Q = "transformer_blocks.0.attn1.to_q"

EDIT_SAVED = """        from safetensors.torch import load_file, save_file
        file = args.output_dir / "transformer/diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
"""
SAVED = "        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)\n"
EDIT_LORA = EDIT_SAVED.replace("transformer/diffusion_pytorch_model", "pytorch_lora_weights")

# what the fault is -> (the claim that catches it, training type, old text, new text, code, location or part of it)
FAULTS = {
    "trainer-loop: a rate of zero counts as false": (
        "zero_lr_identity", "sft", "lr=args.learning_rate,", "lr=args.learning_rate or 1e-4,",
        "GM701", "step 1",
    ),
    "optimizer: one that has a smallest step": (
        "zero_lr_identity", "sft",
        "    scheduler = torch.optim.lr_scheduler",
        "    optimizer = torch.optim.Rprop(parameters, lr=args.learning_rate)\n"
        "    scheduler = torch.optim.lr_scheduler",
        "GM702", "optimizer",
    ),
    "trainer-loop: weight decay of the loop's own": (
        "zero_lr_identity", "sft", STEP,
        STEP + "            [p.data.mul_(0.999) for p in parameters]\n",
        "GM713", "training loop",
    ),
    "dtype: fp16 weights under AdamW": (
        "zero_lr_identity", "sft", TRAIN,
        TRAIN + "    transformer.to(torch.float16), vae.to(torch.float16), text_encoder.to(torch.float16)\n",
        "GM702", "optimizer",
    ),
    "ema: the average of another model is copied back": (
        "zero_lr_identity", "sft", UNWRAP,
        UNWRAP
        + "    from diffusers import CogVideoXTransformer3DModel\n"
        + "    fresh = CogVideoXTransformer3DModel.from_config(config)\n"
        + "    EMAModel(fresh.parameters()).copy_to(parameters)\n",
        "GM713", "training loop",
    ),
    "dtype: the trained model is cast in place": (
        "zero_lr_identity", "sft", SAVE, "        transformer.to(torch.bfloat16)\n" + SAVE, "GM713", "training loop",
    ),
    "dtype: saved in bfloat16": (
        "zero_lr_identity", "sft", SAVE,
        "        import copy\n        pipeline.transformer = copy.deepcopy(transformer).to(torch.bfloat16)\n"
        "        pipeline.save_pretrained(args.output_dir)\n",
        "GM703", "norm_final",
    ),
    "dtype: the VAE was cast in place, and saved so": (
        "zero_lr_identity", "sft", SAVE, "        vae.to(torch.float16)\n" + SAVE, "GM703", "decoder",
    ),
    "checkpoint: only what has a name of its own is saved": (
        "zero_lr_identity", "sft", SAVE,
        SAVE + EDIT_SAVED + "        tensors = {n: t for n, t in tensors.items() if '.attn1.' in n}\n" + SAVED,
        "GM703", "norm_final",
    ),
    "distributed-save: every other tensor is lost": (
        "zero_lr_identity", "sft", SAVE,
        SAVE + EDIT_SAVED + "        tensors = dict(list(tensors.items())[::2])\n" + SAVED,
        "GM703", "",
    ),
    "distributed-save: a flat buffer is sliced two elements late": (
        "zero_lr_identity", "sft", SAVE,
        SAVE + EDIT_SAVED
        + "        tensors = {n: t.flatten().roll(2).reshape(t.shape) for n, t in tensors.items()}\n" + SAVED,
        "GM703", "",
    ),
    "distributed-save: DistributedDataParallel's prefix is saved": (
        "zero_lr_identity", "sft", SAVE,
        SAVE + EDIT_SAVED + "        tensors = {f'module.{n}': t for n, t in tensors.items()}\n" + SAVED,
        "GM205", "module.",
    ),
    "naming: the compiled model is saved": (
        "zero_lr_identity", "sft", SAVE,
        SAVE + EDIT_SAVED + "        tensors = {f'_orig_mod.{n}': t for n, t in tensors.items()}\n" + SAVED,
        "GM205", "_orig_mod.",
    ),
    "config: the scheduler that trains is saved for sampling": (
        "zero_lr_identity", "sft", SAVE,
        "        from diffusers import DDPMScheduler\n"
        "        pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)\n" + SAVE,
        "GM401", "model_index.json",
    ),
    "lora: the whole model is saved while it wears its LoRA (CogVideo issue 374)": (
        "zero_lr_identity", "lora", SAVE_LORA,
        "        pipeline.transformer = transformer\n" + SAVE, "GM203", f"{TO_Q}.weight",
    ),
    "lora: the names lack the component": (
        "zero_lr_identity", "lora", SAVE_LORA,
        SAVE_LORA + EDIT_LORA
        + "        tensors = {n.removeprefix('transformer.'): t for n, t in tensors.items()}\n" + SAVED,
        "GM801", "transformer_blocks.0.attn1.to_k.lora_A",
    ),
    "lora: half of its layers are saved": (
        "zero_lr_identity", "lora", SAVE_LORA,
        SAVE_LORA + EDIT_LORA
        + "        tensors = {n: t for n, t in tensors.items() if 'lora_A' in n or 'blocks.0' in n}\n" + SAVED,
        "GM801", "transformer_blocks.1",
    ),
    "lora: a fresh one is saved": (
        "learning_moves", "lora", SAVE_LORA,
        SAVE_LORA + EDIT_LORA
        + "        tensors = {n: t * 0 if 'lora_B' in n else t for n, t in tensors.items()}\n" + SAVED,
        "GM706", "lora_B",
    ),
    "trainer-loop: the schedule's rate is zero": (
        "learning_moves", "sft", "factor=1.0", "factor=0.0", "GM706", "optimizer",
    ),
    "trainer-loop: a part is not given to the optimizer": (
        "learning_moves", "sft", "if parameter.requires_grad]", "if parameter.requires_grad][:8]", "GM706", "",
    ),
    "trainer-loop: a copy is trained": (
        "learning_moves", "sft", UNWRAP,
        "    transformer = CogVideoXImageToVideoPipeline.from_pretrained("
        "args.pretrained_model_name_or_path).transformer\n",
        "GM706", "",
    ),
    "ema: never updated, and saved": (
        "learning_moves", "sft", "                ema.step(parameters)\n", "                pass\n", "GM706", "",
    ),
    "trainer-loop: more than is claimed is trained": (
        "learning_moves", "sft", SAVE, "        [p.data.add_(1e-3) for p in vae.parameters()]\n" + SAVE,
        "GM707", "decoder",
    ),
    "dataset-cache: kept beside the model": (
        "zero_lr_identity", "sft", "    frames = args.num_frames",
        "    args.cache_dir = Path(args.pretrained_model_name_or_path) / 'cache'\n    frames = args.num_frames",
        "GM712", "cache/0.pt",
    ),
    "trainer-loop: it fails after training": (
        "zero_lr_identity", "sft", UNWRAP, "    raise RuntimeError('no space left on device')\n", "GM711", "trainer",
    ),
    "trainer-loop: it ends before it saves, with status 0": (
        "zero_lr_identity", "sft", UNWRAP, "    import shutil; shutil.rmtree(args.output_dir); return\n",
        "GM710", "output",
    ),
    "trainer-loop: no step is taken": (
        "zero_lr_identity", "sft", STEP, "", "GM709", "optimizer",
    ),
    # cogvideo-bf16-enabled-means-fp16: the script chooses another precision than the model has
    "dtype: the trainer loads the model in half precision": (
        "zero_lr_identity", "sft", "args.pretrained_model_name_or_path)\n    device",
        "args.pretrained_model_name_or_path, torch_dtype=torch.bfloat16)\n    device",
        "GM716", "the trainer's load",
    ),
    # kohya-2541-nan-latents-guard: the autoencoder overflows while latents are cached
    "dataset-cache: cached latents hold NaN": (
        "zero_lr_identity", "sft", '"latents": latents.permute(0, 2, 1, 3, 4),',
        '"latents": latents.permute(0, 2, 1, 3, 4) * float("nan"),', "GM702", "optimizer",
    ),
    # textual-inversion-weight-decay-drift: what is frozen decays all the same
    "optimizer: frozen embeddings decay": (
        "zero_lr_identity", "sft", STEP, STEP + "            text_encoder.shared.weight.data.mul_(0.99)\n",
        "GM703", "shared.weight",
    ),
    # cogvideo-sat-lora-train-freezes-everything: a scale of 0 in the parameter groups
    "optimizer: every group's rate is scaled by zero": (
        "learning_moves", "lora", "lr=args.learning_rate,", "lr=args.learning_rate * 0,", "GM706", "optimizer",
    ),
    # osp-524-which-weights: raw and averaged weights side by side
    "ema: raw and averaged weights are saved side by side": (
        "zero_lr_identity", "sft", SAVE,
        '        transformer.save_pretrained(args.output_dir / "transformer")\n'
        '        transformer.save_pretrained(args.output_dir / "transformer_ema")\n',
        "GM714", "output",
    ),
    # ema-update-sign-flipped and its kin: a formula that does not leave equal weights equal
    "ema: the average is reckoned in two products, which rounds": (
        "zero_lr_identity", "sft", UNWRAP,
        UNWRAP + "    [p.data.copy_(0.9 * p.data + 0.1 * p.data) for p in parameters]\n",
        "GM713", "training loop",
    ),
    # zero3-empty-tensors: a placeholder is saved in place of a gathered parameter
    "distributed-save: a tensor is saved empty": (
        "zero_lr_identity", "sft", SAVE,
        SAVE + EDIT_SAVED
        + "        tensors['transformer_blocks.0.ff.net.2.weight'] = torch.zeros(0)\n" + SAVED,
        "GM703", "transformer_blocks.0.ff.net.2.weight",
    ),
    # fsdp2-adapter-only-rank0-shard: one rank saves its own slice of each factor
    "distributed-save: the adapter holds one rank's slice": (
        "zero_lr_identity", "lora", SAVE_LORA,
        SAVE_LORA + EDIT_LORA
        + "        tensors = {n: t[: len(t) // 2] if 'lora_B' in n else t for n, t in tensors.items()}\n" + SAVED,
        "GM801", "",
    ),
    # fastvideo-789-lora-step0-differs, pissa-mutates-base-weights: a LoRA that acts before it has learned
    "lora: it acts before its first step": (
        "zero_lr_identity", "lora", "init_lora_weights=True", "init_lora_weights=False", "GM716", "lora_B",
    ),
    # finetrainers-382-final-validation-wrong-folder: an older run's adapter at the top, the new one below
    "lora: an older run's adapter lies at the top": (
        "zero_lr_identity", "lora", SAVE_LORA,
        '        save_lora(pipeline, transformer, args.output_dir / "lora_weights" / "000002")\n'
        '        old = args.output_dir / "pytorch_lora_weights.safetensors"\n'
        '        old.write_bytes(next(args.output_dir.glob("lora_weights/*/*")).read_bytes())\n'
        "        import os; os.utime(old, (1e9, 1e9))\n",
        "GM710", "output",
    ),
    # adapter-key-mapping-not-applied: modules are renamed for inference, the adapter's names are not
    "lora: the names are those of the training code's modules": (
        "zero_lr_identity", "lora", SAVE_LORA,
        SAVE_LORA + EDIT_LORA
        + "        tensors = {n.replace('.to_k.', '.k_proj.'): t for n, t in tensors.items()}\n" + SAVED,
        "GM801", "k_proj",
    ),
}  # fmt: skip


AS_A_COMMAND = {
    "trainer-loop: a rate of zero counts as false",
    "dtype: saved in bfloat16",
    "trainer-loop: it fails after training",
    "trainer-loop: it ends before it saves, with status 0",
    "dataset-cache: kept beside the model",
    "lora: an older run's adapter lies at the top",
}
"""Faults that are tried in a process of their own, which costs five seconds each; the others as a function."""


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_script_is_caught_where_it_is_broken(judged, healthy, clips, tmp_path, fault):
    claim, kind, old, new, code, location = FAULTS[fault]
    text = SCRIPT.read_text()
    assert text.count(old) == 1
    text = text.replace(old, new)
    more = ["--training_type", kind, *(["--use_ema"] if fault.startswith("ema: never") else [])]
    script = tmp_path / "train.py"
    script.write_text(text)

    trainer = command(script, *more) if fault in AS_A_COMMAND else in_process(text, clips, *more)
    verdict = judged(claim, healthy, parameters={"trainer": trainer})

    assert verdict.outcome is Outcome.FAILED
    first = verdict.findings[0]
    assert (first.code, location in first.location) == (code, True), first


# --- what shows from step to step: the script as a function, so that its many runs cost no process each -------------


def in_process(text: str, dataset: Path, *more: str):
    """The script's own `main` as a trainer that can go on from a state that it saved."""
    script: dict = {"__name__": "train"}
    exec(compile(text, str(SCRIPT), "exec"), script)

    def train(reference, *, lr, steps, seed, output, resume=None):
        given = {
            "pretrained_model_name_or_path": reference,
            "instance_data_root": dataset,
            "output_dir": output,
            "learning_rate": lr,
            "max_train_steps": steps,
            "seed": seed,
            "training_type": "sft",
            "checkpointing_steps": 1,
            "num_frames": 9,
        }
        if resume is not None:
            given["resume_from_checkpoint"] = resume
        script["main"](
            [*(part for name, value in given.items() for part in (f"--{name}", str(value))), *more]
        )

    return train


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Three clips, so that an epoch has an order."""
    return write_dataset(tmp_path_factory.mktemp("clips"), clips=3, frames=9)


STATE = '                save_state(accelerator, ema, args.output_dir / f"checkpoint-{step}", step)\n'
SWAP_IN = "                ema.store(parameters), ema.copy_to(parameters)\n"
SWAP_BACK = "                ema.restore(parameters)\n"
PRECISION = "        mixed_precision=args.mixed_precision,\n"
LOADER = "DataLoader(clips, batch_size=1,"
ITEMS = "        items = accelerator.skip_first_batches(loader, seen) if seen else loader\n"
SHUFFLED = (
    (
        PRECISION,
        PRECISION
        + "        dataloader_config=__import__('accelerate').utils.DataLoaderConfiguration("
        + "use_seedable_sampler=True),\n",
    ),
    (LOADER, f"{LOADER} shuffle=True,"),
)
NOISE = '    generator = torch.Generator("cpu").manual_seed(args.seed)\n'


def with_teacher(state: str) -> tuple[tuple[str, str], ...]:
    """A second model with an optimizer of its own, which takes over the moments of the first after its first step."""
    made = (
        "    import copy\n    teacher = copy.deepcopy(transformer)\n"
        "    other = torch.optim.AdamW(teacher.parameters(), lr=args.learning_rate)\n"
        "    teacher, other = accelerator.prepare(teacher, other)\n"
    )
    taught = (
        "            for theirs, ours in zip(teacher.parameters(), parameters):\n"
        "                theirs.grad = ours.grad.clone()\n"
        "            other.step()\n"
        f"            if not step:\n                other.load_state_dict({state})\n"
    )
    return (NOISE, made + NOISE), (STEP, STEP + taught)


# what the fault is -> (the claim that catches it, steps, its edits, those of a script without it, code, location)
FAULTS_OF_STATE = {
    # ema-not-restored-after-validation
    "ema: validation swaps the average in, and training goes on from it": (
        "resume_is_exact", 2, ((STATE, STATE + SWAP_IN),), ((STATE, STATE + SWAP_IN + SWAP_BACK),),
        "GM720", "step 3",
    ),
    # onetrainer-823-save-resets-ema
    "ema: the average is swapped in for saving, and stays": (
        "ema_contracts", 2, ((STATE, SWAP_IN + STATE),), (), "GM726", "patch_embed.proj.weight",
    ),
    # optimizer-state-aliased
    "optimizer: two of them share their moments": (
        "resume_is_exact", 1, with_teacher("optimizer.state_dict()"),
        with_teacher("copy.deepcopy(optimizer.state_dict())"), "GM721", "step 4",
    ),
    # resume-replays-epoch-zero-order
    "trainer-loop: a resumed epoch has the order of the first": (
        "resume_is_exact", 4, SHUFFLED,
        (*SHUFFLED, (ITEMS, ITEMS + "        items.iteration = step // len(loader)\n")), "GM723", "step 5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS_OF_STATE)
def test_script_that_loses_its_state_is_caught_and_its_sound_twin_is_not(judged, healthy, clips, fault):
    claim, steps, broken, sound, code, location = FAULTS_OF_STATE[fault]
    more = ["--use_ema"] if fault.startswith("ema") else []

    def verdict_of(edits):
        trainer = in_process(edited(edits), clips, *more)
        return judged(claim, healthy, parameters={"trainer": trainer, "steps": steps})

    whole, verdict = verdict_of(sound), verdict_of(broken)

    assert (whole.outcome, whole.findings, whole.reason) == (Outcome.PASSED, (), None)
    assert verdict.outcome is Outcome.FAILED
    assert (verdict.findings[0].code, verdict.findings[0].location) == (code, location)


ZERO_GRAD = "            optimizer.zero_grad()\n"
BACKWARD = "            accelerator.backward(loss)\n"
ACCUMULATED = (
    "            accelerator.backward(loss / 2)\n"
    "            loss = loss_of(pipeline, transformer, batch, generator, (height, width))\n"
    "            accelerator.backward(loss / 2)\n"
)
SCALED = (
    (
        "    step = 0\n    if",
        "    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**10)\n    step = 0\n    if",
    ),
    (
        BACKWARD,
        "            scaler.scale(loss).backward()\n            scaler.unscale_(optimizer.optimizer)\n",
    ),
)
SCALED_STEP = "            scaler.step(optimizer.optimizer)\n            scaler.update()\n"
PARAMETERS = (
    "    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]\n"
)
ENCODED = "            with torch.no_grad():\n                batch"
TEXT_LORA = (
    (
        TRAIN,
        "    from peft import inject_adapter_in_model\n"
        "    inject_adapter_in_model(LoraConfig(r=4, target_modules=['q', 'v']), text_encoder)\n" + TRAIN,
    ),
    (
        PARAMETERS,
        PARAMETERS + "    parameters += [p for p in text_encoder.parameters() if p.requires_grad]\n",
    ),
    (ENCODED, ENCODED.replace("no_grad", "enable_grad")),
)
SAVE_TEXT_LORA = """        from safetensors.torch import save_file
        (args.output_dir / "text_encoder_lora").mkdir()
        save_file(
            get_peft_model_state_dict(text_encoder), args.output_dir / "text_encoder_lora" / "adapter.safetensors"
        )
"""
ALPHA = '        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),\n'
TO_K = "transformer_blocks.0.attn1.to_k"
CONSTANT = "torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)"
DORA = ("init_lora_weights=True,", "init_lora_weights=True, use_dora=True,")

# what the fault is -> (training type, its edits, those of a script without it, code, component, location)
FAULTS_OF_LEARNING = {
    "trainer-loop: gradients are never cleared": (
        "sft", ((ZERO_GRAD, ""),),
        ((BACKWARD, ACCUMULATED),),
        "GM717", None, "step 2",
    ),
    "optimizer: it is stepped by the scaler and by the loop": (
        "lora", (*SCALED, (STEP, SCALED_STEP + STEP)), (*SCALED, (STEP, SCALED_STEP)), "GM717", None, "step 2",
    ),
    # cloneofsimo/lora issue 16, text-encoder-lora-frozen: the text encoder's LoRA learns, and is dropped
    "lora: that of the text encoder is not saved": (
        "lora", TEXT_LORA, (*TEXT_LORA, (SAVE_LORA, SAVE_LORA + SAVE_TEXT_LORA)), "GM719", "adapter", "output",
    ),
    # dora-magnitude-dropped
    "lora: the magnitudes of DoRA are not saved": (
        "lora",
        (
            DORA,
            (
                SAVE_LORA,
                SAVE_LORA + EDIT_LORA
                + "        tensors = {n: t for n, t in tensors.items() if 'magnitude' not in n}\n" + SAVED,
            ),
        ),
        (DORA,), "GM719", "adapter", "output",
    ),
}  # fmt: skip


def edited(edits) -> str:
    text = SCRIPT.read_text()
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("fault", FAULTS_OF_LEARNING)
def test_script_that_learns_otherwise_than_it_should_is_caught_and_its_sound_twin_is_not(
    judged, healthy, clips, fault
):
    kind, broken, sound, code, component, location = FAULTS_OF_LEARNING[fault]

    def verdict_of(edits):
        trainer = in_process(edited(edits), clips, "--training_type", kind)
        return judged("learning_moves", healthy, parameters={"trainer": trainer})

    whole, verdict = verdict_of(sound), verdict_of(broken)

    assert (whole.outcome, whole.findings, whole.reason) == (Outcome.PASSED, (), None)
    assert verdict.outcome is Outcome.FAILED
    first = verdict.findings[0]
    assert (first.code, first.component, first.location) == (code, component, location)


def test_adapter_under_a_rate_that_warms_up_is_given_the_steps_that_it_needs(judged, healthy, clips):
    warming = ((CONSTANT, "torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 3))"),)
    trainer = in_process(edited(warming), clips, "--training_type", "lora", "--weight_decay", "0")

    verdict = judged("learning_moves", healthy, parameters={"trainer": trainer})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["steps"] == 3


# diffusers-6087-lora-alpha-lost, lora-alpha-not-serialised
@pytest.mark.parametrize("metadata", ["said", "lost"])
def test_adapter_that_is_loaded_at_another_scale_than_it_was_trained_at_is_caught(judged, healthy, metadata):
    text = edited(((ALPHA, ""),)) if metadata == "lost" else SCRIPT.read_text()

    def train(reference, *, dataset, **run):
        return in_process(text, dataset, "--training_type", "lora")(reference, **run)

    verdict = judged("training_conditions", healthy, parameters={"trainer": train, "steps": 1})

    assert verdict.measurements["adapter_layers"] == 8
    if metadata == "said":
        assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
        return
    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component, finding.location) == ("GM825", "transformer", TO_K)
    assert finding.evidence["trained"] == 2.0
    assert finding.evidence["loaded"] == 1.0


def test_one_group_of_parameters_with_a_rate_of_its_own_is_told(judged, healthy, clips):
    groups = "[{'params': parameters[:8]}, {'params': parameters[8:], 'lr': 1e-5}], lr="
    trainer = in_process(edited((("        parameters, lr=", f"        {groups}"),)), clips)

    first = judged("zero_lr_identity", healthy, parameters={"trainer": trainer}).findings[0]

    assert (first.code, first.location) == ("GM701", "step 1")
    assert first.cause.startswith("one of several parameter groups")


# fastvideo-614-validation-frozen-noise: the trainer's validation has a scheduler, or an attention, of its own
VALIDATIONS = {
    "sound": "",
    "scheduler": "    pipeline.scheduler = type('Other', (type(pipeline.scheduler),), {}).from_config("
    "pipeline.scheduler.config, timestep_spacing='linspace', snr_shift_scale=1.0)\n",
    "attention": "    for block in pipeline.transformer.transformer_blocks:\n"
    "        block.attn1.processor = Local(block.attn1.processor)\n",
}
LOADED = "    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(args.model)\n"
LOCAL = """class Local:
    def __init__(self, own):
        self.own = own

    def __call__(
        self, attn, hidden_states, encoder_hidden_states, attention_mask=None, image_rotary_emb=None
    ):
        text = torch.zeros_like(encoder_hidden_states)
        return self.own(attn, hidden_states, text, attention_mask, image_rotary_emb)


"""


@pytest.mark.parametrize("what", VALIDATIONS)
def test_validation_that_samples_otherwise_than_the_checkpoint_does_is_said(judged, what):
    text = SAMPLER.read_text()
    assert text.count(LOADED) == 1
    script: dict = {"__name__": "validate"}
    exec(compile(text.replace(LOADED, LOADED + VALIDATIONS[what]), str(SAMPLER), "exec"), script)
    exec(LOCAL, script)

    def validate(candidate, *, probe, output):
        picture = output / "image.png"
        probe.picture().save(picture)
        given = argparse.Namespace(
            model=str(candidate), lora=None, image=str(picture), prompt=probe.prompt, seed=probe.seed,
            steps=probe.steps, guidance=probe.guidance, frames=probe.frames, height=probe.height, width=probe.width,
        )  # fmt: skip
        return script["sample"](script["load"](given), given)

    trained = tiny.shipped_folder("cogvideox-i2v-trained")
    verdict = judged("own_inference", trained, trained, {"sampler": validate}, steps=2, frames=9, strict=True)

    if what == "sound":
        assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
        return
    assert verdict.outcome is Outcome.FAILED
    assert (verdict.findings[0].code, verdict.findings[0].location) == ("GM832", "inference")


# vae-cache-hash-ignores-args: the key of a cached clip does not depend on which clip it is
@pytest.mark.parametrize("earlier", ["the same clips", "other clips"])
def test_cache_that_outlives_its_data_set_is_caught(judged, clips, tmp_path, earlier):
    trained = tiny.shipped_folder("cogvideox-i2v-trained")
    data, before = (Path(shutil.copytree(clips, tmp_path / name)) for name in ("data", "before"))
    if earlier == "other clips":
        first, *others = (before / "videos.txt").read_text().splitlines()
        (before / "videos.txt").write_text("\n".join([*others, first]))
    for number, dataset in enumerate((before, data)):
        train = in_process(SCRIPT.read_text(), dataset, "--cache_dir", str(data / "cache"))
        train(trained, lr=0.0, steps=3, seed=0, output=tmp_path / f"run-{number}")

    verdict = judged("cache_is_fresh", trained, parameters={"cache": str(data / "cache")})

    found = [(finding.code, finding.location) for finding in verdict.findings]
    if earlier == "the same clips":
        assert (verdict.outcome, found, verdict.reason) == (Outcome.PASSED, [], None)
        return
    assert verdict.outcome is Outcome.FAILED
    assert found[0] == ("GM747", "0.pt:latents")
    assert "is the latent of 1.mp4" in verdict.findings[0].message
