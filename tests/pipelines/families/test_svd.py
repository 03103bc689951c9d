"""Stable Video Diffusion and I2VGen-XL, the families with a UNet: healthy models pass, real faults are found."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.resolve import resolve
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from tests.editing import drop_tensors, edit_json, edit_tensors
from tests.pipelines.families.whole import check_build, check_suite, places, verdicts

NAMES = ("svd", "i2vgen-xl")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", NAMES)
def test_the_build_is_equal_everywhere(name: str) -> None:
    check_build(name)


def test_the_suite_passes_on_svd() -> None:
    check_suite("svd", skipped=_without_lora("svd"))


def test_the_suite_passes_on_i2vgen_xl_and_notes_what_its_pipeline_does() -> None:
    check_suite("i2vgen-xl", skipped=_without_lora("i2vgen-xl"), noted=("GM502",))
    (note,) = verdicts("i2vgen-xl")["seeded_sampling"].findings
    assert note.severity is Severity.NOTE
    assert "I2VGenXLPipeline draws from it" in note.message


def _without_lora(name: str) -> tuple[str, ...]:
    """Claims that need a LoRA: diffusers has none for these pipelines."""
    return tuple(claim for claim in verdicts(name) if "[lora]" in claim or claim == "adapter_identity")


def test_a_draw_that_is_not_known_of_the_class_is_no_note(monkeypatch) -> None:
    """The same from a pipeline of which it is not known is a fault."""
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as module

    drawn = module.randn_tensor
    monkeypatch.setattr(module, "randn_tensor", lambda *a, generator=None, **k: drawn(*a, **k))
    session = GenmodelSession(Settings(candidates=("tiny:svd",)))
    try:
        verdict = session.judge(0, "seeded_sampling", {})
    finally:
        session.close()
    assert ("GM502", None, "step 1") in places(verdict)


def test_another_draw_of_i2vgen_xl_is_no_note_either(monkeypatch) -> None:
    """Known is what torch's global state decides; a generator that the seed does not reach is a fault."""
    from diffusers.pipelines.deprecated.i2vgen_xl import pipeline_i2vgen_xl as module

    drawn = module.randn_tensor
    own = torch.Generator().manual_seed(1)
    monkeypatch.setattr(module, "randn_tensor", lambda *a, generator=None, **k: drawn(*a, generator=own, **k))
    session = GenmodelSession(Settings(candidates=("tiny:i2vgen-xl",)))
    try:
        verdict = session.judge(0, "seeded_sampling", {})
    finally:
        session.close()
    assert ("GM501", None, "step 1") in places(verdict)


def test_one_frame_is_refused(folders, tmp_path) -> None:
    checkpoint = resolve(str(folders["svd"]), tmp_path)
    family = family_of(checkpoint)
    with pytest.raises(BadInputError, match="makes 2 or more"):
        family.check_size(checkpoint, height=32, width=32, frames=1)
    with pytest.raises(BadInputError, match="multiples of 16"):
        family.check_size(checkpoint, height=40, width=32, frames=2)


@pytest.mark.parametrize("name", NAMES)
def test_the_objective_repeats_itself_and_reaches_the_unet(name: str, tmp_path) -> None:
    checkpoint = resolve(f"tiny:{name}", tmp_path)
    family, pipeline = family_of(checkpoint), tiny.build(name)
    pipeline.unet.train()
    clip = torch.rand((5, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    losses = [
        family.training_loss(pipeline, clip, "a red square moves right", torch.Generator().manual_seed(0))
        for _ in range(2)
    ]
    assert losses[0] == losses[1]
    losses[0].backward()
    dead = [n for n, p in pipeline.unet.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_a_prediction_type_that_was_lost(judged, folders, copied) -> None:
    copy = copied("svd")
    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type=...)
    found = places(judged("same_config", copy, folders["svd"]))
    assert ("GM401", "scheduler", "scheduler_config.json:prediction_type") in found


def test_weights_of_the_unet_that_were_not_saved(judged, copied) -> None:
    copy = copied("svd")
    name = "add_embedding.linear_1.weight"
    drop_tensors(copy / UNET, name)
    assert ("GM201", "unet", name) in places(judged("coverage", copy))


def test_two_matrices_that_were_swapped(judged, folders, copied) -> None:
    copy = copied("svd")
    left, right = (
        f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.{part}.weight" for part in ("to_q", "to_k")
    )
    edit_tensors(copy / UNET, lambda t: t | {left: t[right], right: t[left]})
    found = {place[1:] for place in places(judged("same_weights", copy, folders["svd"], expect="identical"))}
    assert found & {("unet", left), ("unet", right)}


def test_a_schedule_without_zero_terminal_noise(judged, folders, copied) -> None:
    copy = copied("i2vgen-xl")
    edit_json(copy / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=False)
    found = places(judged("same_config", copy, folders["i2vgen-xl"]))
    assert ("GM401", "scheduler", "scheduler_config.json:rescale_betas_zero_snr") in found


def test_the_way_in_of_the_image_that_was_not_saved(judged, copied) -> None:
    copy = copied("i2vgen-xl")
    name = "image_latents_proj_in.0.weight"
    drop_tensors(copy / UNET, name)
    assert ("GM201", "unet", name) in places(judged("coverage", copy))
    assert judged("seeded_sampling", copy).outcome is Outcome.INCONCLUSIVE
