"""own_inference: the example script as somebody's inference, whole and broken, and functions in its place."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline
from safetensors.torch import load_file, save_file

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.training.lora import train_lora
from tests.editing import TRANSFORMER, edit_tensors

SCRIPT = Path(__file__).parents[2] / "examples" / "sample_cogvideox_i2v.py"
GIVEN = (
    "--image {image} --prompt {prompt} --seed {seed} --steps {steps} --frames {frames} --height {height} "
    "--width {width} --guidance {guidance}"
)
MODEL = "--model {candidate}"
LORA = "--model {reference} --lora {lora}"
SHORT = {"steps": 2, "frames": 9}


def command(
    script: Path = SCRIPT, model: str = MODEL, output: str = "{output}/video.npy", given: str = GIVEN
) -> str:
    return f"'{sys.executable}' '{script}' {model} {given} --output {output}"


def codes(verdict):
    return [finding.code for finding in verdict.findings]


@pytest.fixture(scope="session")
def trained() -> Path:
    """The trained tiny pipeline: prompt and image matter to it."""
    return Path(tiny.shipped_folder("cogvideox-i2v-trained"))


@pytest.fixture(scope="session")
def finetuned(trained, tmp_path_factory) -> Path:
    """Another model: some of its denoiser's weights are others."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("finetuned") / "model")

    def change(tensors):
        return {name: t * 1.3 if ".attn1." in name else t for name, t in tensors.items()}

    edit_tensors(folder / TRANSFORMER, change)
    return folder


@pytest.fixture(scope="session")
def lora(trained, tmp_path_factory) -> Path:
    """A LoRA with an alpha of twice its rank, and an effect that can be seen."""
    folder = train_lora(trained, lr=1e-3, steps=1, seed=0, output=tmp_path_factory.mktemp("lora"))
    file = folder / "pytorch_lora_weights.safetensors"
    generator = torch.Generator().manual_seed(0)

    def change(tensors):
        return {
            name: torch.randn(t.shape, generator=generator) * 0.05 if "lora_B" in name else t
            for name, t in tensors.items()
        }

    edit_tensors(file, change)
    return file


# --- the example script ---------------------------------------------------------------------------------------------


def test_healthy_script_shows_what_ours_shows_in_a_video_file_too(judged, trained, finetuned):
    text = command(output="{output}/video.mp4")

    verdict = judged("own_inference", finetuned, trained, parameters={"sampler": text}, **SHORT)

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["agrees_with_ours"]
    assert verdict.measurements["inference_runs"] == 2


def test_healthy_script_shows_a_lora_at_its_strength(judged, trained, lora):
    verdict = judged("own_inference", lora, trained, parameters={"sampler": command(model=LORA)}, **SHORT)

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["same_by_ours"] is False


def test_whole_model_and_a_command_with_a_lora_is_tried_with_random_factors(judged, trained):
    verdict = judged("own_inference", trained, parameters={"sampler": command(model=LORA)}, **SHORT)

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["inference_runs"] == 2


FROM = "    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(args.model)\n"
LOAD = "        pipeline.load_lora_weights(str(args.lora.parent), weight_name=args.lora.name)\n"
GENERATOR = 'generator=torch.Generator("cpu").manual_seed(args.seed),'
IMAGE = '    image = Image.open(args.image).convert("RGB")\n'
STRICT = """    from safetensors.torch import load_file
    model = type(pipeline.transformer).from_config(pipeline.transformer.config)
    stored = load_file(f"{args.model}/transformer/diffusion_pytorch_model.safetensors")
    model.load_state_dict({f"module.{name}": value for name, value in stored.items()}, strict=False)
    pipeline.transformer = model.eval()
"""

# what the fault is -> (what is judged, old text, new text, code, what is said of it)
FAULTS = {
    "an unwrapped model is loaded with strict=False": ("model", FROM, FROM + STRICT, "GM834", "strict=False"),
    "the seed is not used": ("model", GENERATOR, "", "GM834", "global random state"),
    "the base is loaded": (
        "model", "from_pretrained(args.model)", "from_pretrained({trained!r})", "GM831", "the base",
    ),
    "the LoRA is forgotten": ("lora", LOAD, "        pass\n", "GM831", "not loaded"),
    "the LoRA acts at a quarter": (
        "lora", LOAD,
        LOAD.replace("name)", "name, adapter_name='a')") + "        pipeline.set_adapters(['a'], [0.25])\n",
        "GM830", "the strength",
    ),
    "the scheduler of the checkpoint is not read": (
        "model", FROM, FROM + "    pipeline.scheduler = type(pipeline.scheduler)()\n", "GM832", "scheduler",
    ),
    "the image is read by OpenCV": (
        "model", IMAGE, IMAGE + "    image = Image.fromarray(np.asarray(image)[:, :, ::-1].copy())\n", "GM832", "BGR",
    ),
    "the number of frames is its own": ("model", "num_frames=args.frames", "num_frames=17", "GM832", "17 frames"),
    "the prompt is lost": ("model", "prompt=args.prompt", "prompt=''", "GM832", "prompt"),
}  # fmt: skip


def in_process(text: str):
    """The script as a function: its own `load` and `sample`, without a process for each run."""
    script: dict = {"__name__": "infer"}
    exec(compile(text, str(SCRIPT), "exec"), script)

    def sample(candidate, *, probe, reference, lora, output):
        probe.picture().save(output / "image.png")
        args = argparse.Namespace(
            model=str(reference if lora else candidate), lora=lora, image=str(output / "image.png"),
            prompt=probe.prompt, seed=probe.seed, steps=probe.steps, guidance=probe.guidance,
            frames=probe.frames, height=probe.height, width=probe.width,
        )  # fmt: skip
        pipeline = script["load"](args)
        pipeline.set_progress_bar_config(disable=True)
        script["write"](script["sample"](pipeline, args), output / "video.npy")
        (output / "image.png").unlink()

    return sample


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_script_is_caught_and_said_how(judged, trained, finetuned, lora, fault):
    what, old, new, code, said = FAULTS[fault]
    text = SCRIPT.read_text()
    assert text.count(old) == 1
    sampler = in_process(text.replace(old, new.replace("{trained!r}", repr(str(trained)))))
    candidate = lora if what == "lora" else finetuned

    verdict = judged("own_inference", candidate, trained, parameters={"sampler": sampler}, **SHORT)

    assert verdict.outcome is Outcome.FAILED, verdict
    first = verdict.findings[0]
    assert first.code == code
    assert said in f"{first.message} {first.cause}"


def test_script_that_fails_says_its_last_lines(judged, trained, tmp_path):
    script = tmp_path / "infer.py"
    script.write_text("print('no such model'); raise SystemExit(3)")

    verdict = judged("own_inference", trained, parameters={"sampler": command(script)}, **SHORT)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "exit status 3" in verdict.reason
    assert "no such model" in verdict.reason


# --- functions ------------------------------------------------------------------------------------------------------


def infer(candidate, *, probe, lora=None):
    """A plain diffusers inference, in this process."""
    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(candidate)
    if lora is not None:
        pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        image=probe.picture(),
        prompt=probe.prompt,
        height=probe.height,
        width=probe.width,
        num_frames=probe.frames,
        num_inference_steps=probe.steps,
        guidance_scale=probe.guidance,
        max_sequence_length=pipeline.transformer.config.max_text_seq_length,
        generator=torch.Generator().manual_seed(probe.seed),
        output_type="pt",
    ).frames[0]


def noisier(candidate, *, probe):
    """Its noise comes from elsewhere: a difference that is nobody's fault."""
    return infer(candidate, probe=probe.but(seed=probe.seed + 90_000))


def test_function_is_taken_too(judged, trained, finetuned):
    verdict = judged("own_inference", finetuned, trained, parameters={"sampler": infer}, **SHORT)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_other_noise_is_a_warning_and_the_relation_is_judged(judged, trained, finetuned):
    verdict = judged("own_inference", finetuned, trained, parameters={"sampler": noisier}, **SHORT)

    assert verdict.outcome is Outcome.PASSED
    [finding] = verdict.findings
    assert (finding.code, finding.severity) == ("GM832", "warning")
    assert verdict.measurements["same_by_theirs"] is False


def test_other_noise_and_the_base_in_place_of_the_candidate(judged, trained, finetuned):
    def base(candidate, *, probe):
        return noisier(trained, probe=probe)

    verdict = judged("own_inference", finetuned, trained, parameters={"sampler": base}, **SHORT)

    assert codes(verdict) == ["GM832", "GM831"]


def test_other_noise_without_a_reference_cannot_be_judged(judged, trained):
    verdict = judged("own_inference", trained, parameters={"sampler": noisier}, **SHORT)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "--genmodel-ref" in verdict.reason


@pytest.mark.parametrize("trainer", ["full", "lora"])
def test_what_is_trained_at_rate_zero_looks_as_what_went_in(judged, trained, trainer):
    parameters = {"sampler": infer, "trainer": trainer}

    verdict = judged("own_inference", trained, parameters=parameters, **SHORT)

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["same_by_ours"] is True
    assert verdict.measurements["inference_runs"] == (2 if trainer == "full" else 3)


def test_load_path_that_reads_what_was_trained_otherwise_is_told_from_ours(judged, trained):
    """The founding incident, seen from their side: the files are right, and their load is not."""

    def loses(candidate, *, probe):
        if Path(candidate) != trained:
            damaged = Path(candidate).parent / "damaged"
            shutil.copytree(candidate, damaged)
            edit_tensors(
                damaged / TRANSFORMER,
                lambda tensors: {n: torch.randn_like(t) if ".attn1." in n else t for n, t in tensors.items()},
            )
            candidate = damaged
        return infer(candidate, probe=probe)

    verdict = judged("own_inference", trained, parameters={"sampler": loses, "trainer": "full"}, **SHORT)

    assert codes(verdict) == ["GM833"]
    assert "load path" in verdict.findings[0].cause


def test_lora_that_was_not_trained_is_tried_with_random_factors(judged, trained, tmp_path):
    """At rate zero lora_B is zero, and every scale looks right."""
    fresh = train_lora(trained, lr=0.0, steps=1, seed=0, output=tmp_path / "fresh")

    def forgets_alpha(candidate, *, probe, lora=None):
        bare = tmp_path / f"{lora.parent.parent.name}-bare" / lora.name
        bare.parent.mkdir(exist_ok=True)
        save_file(load_file(lora), bare)
        return infer(candidate, probe=probe, lora=bare)

    assert judged("own_inference", fresh, trained, parameters={"sampler": infer}, **SHORT).findings == ()

    verdict = judged("own_inference", fresh, trained, parameters={"sampler": forgets_alpha}, **SHORT)

    assert codes(verdict) == ["GM830"]
    assert "the strength" in verdict.findings[0].message


def test_adapter_and_a_command_without_a_place_for_it_cannot_be_judged(judged, trained, lora):
    verdict = judged("own_inference", lora, trained, parameters={"sampler": command()}, **SHORT)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "{lora}" in verdict.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("infer --model {candidate}", r"does not say where \{output\} goes"),
        ("infer --out {output}", r"names neither \{candidate\} nor"),
        ("infer --out {output} --model {candidat}", r"did you mean \{candidate\}\?"),
        ("no_such_module:sample", "cannot be imported"),
        ("json:sample", "has no function 'sample'"),
    ],
)
def test_wrong_sampler_is_refused_in_one_line(judged, healthy, text, said):
    with pytest.raises(BadInputError, match=said):
        judged("own_inference", healthy, parameters={"sampler": text})


# --- what they write ------------------------------------------------------------------------------------------------


def test_every_kind_of_file_is_read(tmp_path):
    from PIL import Image

    from pytest_genmodel.pipelines.video_files import VideoFileError, as_frames, read_file, read_folder

    video = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    levels = (video * 255).round().to(torch.uint8)
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in levels]
    np.save(tmp_path / "a.npy", video.permute(0, 2, 3, 1).numpy())
    torch.save(video[None], tmp_path / "b.pt")
    save_file({"frames": levels}, tmp_path / "c.safetensors")
    pictures[0].save(tmp_path / "d.webp", save_all=True, append_images=pictures[1:], lossless=True)
    pictures[0].save(tmp_path / "e.gif", save_all=True, append_images=pictures[1:])
    (tmp_path / "frames").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "frames" / f"{number:03}.png")

    for name, limit in {
        "a.npy": 0,
        "b.pt": 0,
        "c.safetensors": 1 / 255,
        "d.webp": 1 / 255,
        "e.gif": 0.5,
    }.items():
        read = read_file(tmp_path / name)
        assert read.values.shape == video.shape
        assert float((read.values - video).abs().max()) <= limit
    folder = read_folder(tmp_path / "frames")
    assert (folder.values.shape, folder.is_lossy, folder.step) == (video.shape, False, 1 / 255)
    with pytest.raises(VideoFileError, match="5 videos were written"):
        read_folder(tmp_path)
    with pytest.raises(VideoFileError, match=r"reach from -1"):
        as_frames(video * 2 - 1)
    with pytest.raises(VideoFileError, match=r"to 65535: integers are to be in \[0, 255\]"):
        as_frames(np.full((2, 3, 4, 4), 65535, np.uint16))
    with pytest.raises(VideoFileError, match="complex"):
        as_frames(video.to(torch.complex64))
    with pytest.raises(VideoFileError, match="not \\(frame, channel, height, width\\)"):
        as_frames(video[0])
    (tmp_path / "x.npy").write_bytes(b"nothing")
    with pytest.raises(VideoFileError, match=r"x\.npy cannot be read"):
        read_file(tmp_path / "x.npy")


def test_pictures_are_in_the_order_that_their_numbers_give(tmp_path):
    from PIL import Image

    from pytest_genmodel.pipelines.video_files import read_folder

    for number in range(12):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"frame_{number}.png")

    values = read_folder(tmp_path).values
    assert (values[:, 0, 0, 0] * 255).round().tolist() == list(range(12))


def test_options_name_the_inference_and_add_its_claims(run, healthy):
    result = run(f"--genmodel-sample-cmd={command()}", "--collect-only", "-q", "-k", "own_inference")

    assert "genmodel::sampling::own_inference" in result.outlines
