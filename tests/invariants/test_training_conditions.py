"""training_conditions: a healthy trainer tells the denoiser what inference tells it; broken ones are named.

The example script is run in this process, as it stands and with faults that real scripts have had; as a command it is
run once.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.tiny.cogvideox_trained import FOLDER
from pytest_genmodel.training.loop import load_for_training, moving_clip

SCRIPT = Path(__file__).parents[2] / "examples" / "train_cogvideox_i2v.py"
TRAINED = FOLDER
NAME = "training_conditions"

IMAGE = "    image = vae.encode(video[:, :, :1]).latent_dist.mode() * vae.config.scaling_factor\n"
FRAMES = '    image = torch.cat([batch["image"], torch.zeros_like(latents[:, 1:])], dim=1)\n'
INPUT = "        hidden_states=torch.cat([noisy, image], dim=2),\n"
TEXT = '        encoder_hidden_states=batch["prompt"],\n'
TIME = "        timestep=timestep,\n"
ROTARY = "        image_rotary_emb=rotary,\n"
TABLE = "        rotary = pipeline._prepare_rotary_positional_embeddings(*size, latents.shape[1], latents.device)\n"
LATENTS = "    latents = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor\n"
PROMPT = '        item["prompt"],\n'


def script_trainer(folder: Path, *edits: tuple[str, str]):
    """The example script with edits, as a function that takes the tiny data set."""
    text = SCRIPT.read_text(encoding="utf-8")
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "train.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("edited_example", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def train(reference, *, lr, steps, seed, output, dataset):
        arguments = {
            "pretrained_model_name_or_path": reference, "instance_data_root": dataset, "output_dir": output,
            "learning_rate": lr, "max_train_steps": steps, "seed": seed, "checkpointing_steps": 1000,
            "training_type": "lora",
        }  # fmt: skip
        module.main([part for name, value in arguments.items() for part in (f"--{name}", str(value))])

    return train


def test_built_in_trainer_tells_the_denoiser_what_inference_does(judged):
    verdict = judged(NAME, TRAINED, parameters={"trainer": "full"})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["training_calls"] == 4
    assert verdict.measurements["image_difference"] == verdict.measurements["text_difference"] == 0
    assert abs(verdict.measurements["latent_factor"] - 1) < 5 * verdict.measurements["latent_factor_error"]


def test_example_script_tells_the_denoiser_what_inference_does(judged, tmp_path):
    verdict = judged(NAME, TRAINED, parameters={"trainer": script_trainer(tmp_path)})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert abs(verdict.measurements["latent_factor"] - 1) < 0.1


# what the fault is -> (old, new, code, part of the location, part of the cause)
FAULTS = {
    "the image's latent is not scaled": (
        IMAGE, IMAGE.replace(" * vae.config.scaling_factor", ""),
        "GM730", "hidden_states[channels 8:16] frame 0", "not scaled",
    ),
    "the image's latent is divided by the scaling factor (CogVideo 570)": (
        IMAGE, IMAGE.replace("*", "/"), "GM730", "hidden_states[channels 8:16] frame 0", "divided by",
    ),
    "the image's latent is scaled twice": (
        IMAGE, IMAGE + "    image = image * vae.config.scaling_factor\n", "GM730", "frame 0", "scaled twice",
    ),
    "the image is in [0, 1] (SVD_Xtend)": (
        IMAGE, IMAGE.replace("video[:, :, :1]", "(video[:, :, :1] + 1) / 2"), "GM730", "frame 0", "[0, 1]",
    ),
    "the image is in [0, 255] (CogVideo's latent cache)": (
        IMAGE, IMAGE.replace("video[:, :, :1]", "(video[:, :, :1] + 1) * 127.5"), "GM730", "frame 0", "[0, 255]",
    ),
    "the image is mapped to [-1, 1] twice (diffusion-pipe)": (
        IMAGE, IMAGE.replace("video[:, :, :1]", "video[:, :, :1] * 2 - 1"), "GM730", "frame 0", "twice",
    ),
    "the image's colours are in the other order": (
        IMAGE, IMAGE.replace("video[:, :, :1]", "video[:, :, :1].flip(1)"), "GM730", "frame 0", "blue, green, red",
    ),
    "the image stands in the last frame": (
        FRAMES,
        "    image = torch.cat([torch.zeros_like(latents[:, 1:]), batch[\"image\"]], dim=1)\n",
        "GM731", "frame 0", "another order",
    ),
    "the image stands in every frame": (
        FRAMES, "    image = batch[\"image\"].expand_as(latents)\n", "GM731", "frame 1", "repeated",
    ),
    "image and noise are put together in the other order": (
        INPUT, INPUT.replace("noisy, image", "image, noisy"), "GM731", "hidden_states", "other order",
    ),
    "the condition is noise without the image (CogVideo 558)": (
        FRAMES, FRAMES + "    image = torch.randn_like(image) * 0.05\n", "GM732", "hidden_states[channels 8:16]",
        "without the image",
    ),
    "the image is dropped in every step": (
        FRAMES, FRAMES + "    image = image * 0\n", "GM732", "hidden_states[channels 8:16]", "every step",
    ),
    "timesteps are in [0, 1]": (
        TIME, "        timestep=timestep / 1000,\n", "GM734", "timestep", "[0, 1]",
    ),
    "no rotary table": (ROTARY, "", "GM736", "image_rotary_emb", "without it"),
    "the rotary table is that of another crop": (
        TABLE, TABLE + "        rotary = tuple(part.flip(0) for part in rotary)\n", "GM736", "image_rotary_emb[0]",
        "another size",
    ),
    "the rotary table is that of another number of frames (CogVideo 538)": (
        TABLE,
        TABLE
        + "        wide = pipeline._prepare_rotary_positional_embeddings(size[0], size[1], 9, latents.device)\n"
        "        rotary = tuple(part[torch.arange(len(rotary[0])) + 16] for part in wide)\n",
        "GM736", "image_rotary_emb[0]", "number of frames",
    ),
    "captions are cut to another length": (
        "        max_sequence_length=transformer.config.max_text_seq_length,\n", "        max_sequence_length=6,\n",
        "GM733", "encoder_hidden_states", "another length",
    ),
    "captions are not encoded": (
        TEXT, TEXT.replace("batch[\"prompt\"]", "batch[\"prompt\"] * 0"), "GM733", "encoder_hidden_states",
        "zero in every step",
    ),
    "every caption is dropped": (
        PROMPT, "        \"\",\n", "GM733", "encoder_hidden_states", "empty prompt",
    ),
    "captions are those of another clip": (
        PROMPT, "        \"a blue circle moves left\",\n", "GM733", "encoder_hidden_states", "",
    ),
    "the clip's latents are not scaled": (
        LATENTS, LATENTS.replace(" * vae.config.scaling_factor", ""), "GM737", "hidden_states", "",
    ),
    "the clip's latents are divided by the scaling factor": (
        LATENTS, LATENTS.replace("*", "/"), "GM737", "hidden_states", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_conditions_are_named(judged, tmp_path, fault):
    old, new, code, location, cause = FAULTS[fault]
    verdict = judged(NAME, TRAINED, parameters={"trainer": script_trainer(tmp_path, (old, new))})

    assert verdict.outcome is Outcome.FAILED, verdict.reason
    first = verdict.findings[0]
    assert (first.code, location in first.location, cause in (first.cause or "")) == (code, True, True), first
    assert {finding.code for finding in verdict.findings if finding.severity == "error"} == {code}


# what is done on purpose -> (old, new, the note that says so)
LEGITIMATE = {
    "the posterior is drawn from": (
        IMAGE, IMAGE.replace(".mode()", ".sample(torch.Generator().manual_seed(3))"), None,
    ),
    "captions are dropped in some steps": (
        "        encoder_hidden_states=batch[\"prompt\"],\n",
        "        encoder_hidden_states=batch[\"prompt\"] * float(int(timestep) % 3 > 0),\n", None,
    ),
    "images are dropped in some steps": (
        FRAMES, FRAMES + "    image = image * float(torch.rand((), generator=generator) > 0.3)\n", None,
    ),
    "pixels of the image carry a little noise": (
        IMAGE, IMAGE.replace("video[:, :, :1])", "video[:, :, :1] + 0.05 * torch.randn(video[:, :, :1].shape))"),
        None,
    ),
    "pixels of the image carry much noise": (
        IMAGE, IMAGE.replace("video[:, :, :1])", "video[:, :, :1] + 0.5 * torch.randn(video[:, :, :1].shape))"),
        "GM738",
    ),
    "encoders run in bfloat16": (
        "    return {\n        \"latents\"",
        "    latents, image, prompt = (part.bfloat16().float() for part in (latents, image, prompt))\n"
        "    return {\n        \"latents\"",
        "GM739",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LEGITIMATE)
def test_what_is_done_on_purpose_is_no_more_than_a_note(judged, tmp_path, what):
    old, new, note = LEGITIMATE[what]
    verdict = judged(NAME, TRAINED, parameters={"trainer": script_trainer(tmp_path, (old, new))})

    assert verdict.outcome is Outcome.PASSED, verdict.findings
    assert [finding.code for finding in verdict.findings] == ([note] if note else [])


def test_command_is_watched_in_its_own_process(judged, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.read_text(encoding="utf-8").replace(IMAGE, IMAGE.replace("*", "/")))
    command = (
        f"'{sys.executable}' '{script}' --pretrained_model_name_or_path {{reference}} "
        "--instance_data_root {dataset} --output_dir {output} --learning_rate {lr} --max_train_steps {steps}"
    )
    verdict = judged(NAME, TRAINED, parameters={"trainer": command, "steps": 2})

    assert verdict.outcome is Outcome.FAILED
    assert [finding.code for finding in verdict.findings] == ["GM730"]
    assert verdict.measurements["training_calls"] == 2


def own_loop(change=lambda given: given):
    """A trainer of one's own: the family's objective on the probe's own clip, with the denoiser's call changed.

    Thirteen frames are four of the latent's: none is added to fill a patch.
    """

    def train(reference, *, lr, steps, seed, output):
        pipeline = load_for_training(reference)
        wishes = ProbeWishes(seed=seed)
        probe = make_probe(wishes, pipeline.checkpoint, pipeline.family, full=False).but(frames=13)
        denoiser = pipeline.diffusers.transformer
        denoiser.requires_grad_(True)
        hook = denoiser.register_forward_pre_hook(
            lambda _, args, kwargs: (args, change(dict(kwargs))), with_kwargs=True
        )
        optimizer = torch.optim.SGD(denoiser.parameters(), lr=lr)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            pipeline.family.training_loss(
                pipeline.diffusers, moving_clip(probe), probe.prompt, generator
            ).backward()
            optimizer.step()
        hook.remove()
        pipeline.diffusers.save_pretrained(output)

    return train


def without_ofs(given):
    return {**given, "ofs": torch.full_like(given["ofs"], 1.0)}


@pytest.mark.parametrize(
    ("change", "codes"),
    [(lambda given: given, []), (without_ofs, ["GM735"])],
    ids=["healthy", "another value for ofs"],
)
def test_cogvideox_1_5_with_its_divided_image_latents_and_its_ofs(judged, tmp_path, change, codes):
    folder = tiny.materialise("cogvideox1.5-i2v", tmp_path)
    verdict = judged(NAME, folder, parameters={"trainer": own_loop(change)})

    assert [finding.code for finding in verdict.findings] == codes, verdict.findings
    assert verdict.reason is None


def test_trainer_on_clips_of_its_own_is_skipped_with_the_reason(judged):
    def train(reference, *, lr, steps, seed, output):
        pipeline = load_for_training(reference)
        probe = make_probe(ProbeWishes(seed=seed), pipeline.checkpoint, pipeline.family, full=False)
        pipeline.diffusers.transformer.requires_grad_(True)
        clip = torch.rand(moving_clip(probe).shape, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        pipeline.family.training_loss(pipeline.diffusers, clip, "a yellow boat turns", generator).backward()
        torch.optim.SGD(pipeline.diffusers.transformer.parameters(), lr=lr).step()
        pipeline.diffusers.save_pretrained(output)

    verdict = judged(NAME, TRAINED, parameters={"trainer": train})

    assert verdict.outcome is Outcome.SKIPPED
    assert "{dataset}" in verdict.reason


def test_trainer_that_never_calls_the_denoiser_cannot_be_judged(judged):
    def train(reference, *, lr, steps, seed, output):
        load_for_training(reference).diffusers.save_pretrained(output)

    verdict = judged(NAME, TRAINED, parameters={"trainer": train})

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "no training call of a CogVideoXTransformer3DModel" in verdict.reason


def test_nothing_of_the_watch_is_left_behind(judged):
    import os

    from diffusers import CogVideoXTransformer3DModel

    before = CogVideoXTransformer3DModel.forward
    judged(NAME, TRAINED, parameters={"trainer": "full", "steps": 1})

    assert CogVideoXTransformer3DModel.forward is before
    assert "GENMODEL_CALLS" not in os.environ
