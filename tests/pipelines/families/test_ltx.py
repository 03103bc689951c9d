"""LTX-Video, image-to-video and with conditions: healthy models pass, real faults are found where they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.resolve import resolve
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from tests.editing import TRANSFORMER, VAE, drop_tensors, edit_json, edit_tensors
from tests.pipelines.families.whole import check_build, check_suite, places

NAMES = ("ltx-i2v", "ltx-condition")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    return tiny.materialise("ltx-i2v", tmp_path_factory.mktemp("ltx"))


@pytest.fixture
def copy(healthy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(healthy, tmp_path / "copy"))


@pytest.mark.parametrize("name", NAMES)
def test_the_build_is_equal_everywhere(name: str) -> None:
    check_build(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_suite_passes(name: str) -> None:
    check_suite(name)


@pytest.mark.parametrize(
    ("height", "frames", "says"), [(48, 9, "multiples of 32"), (32, 8, "4k \\+ 1 .the nearest is 9")]
)
def test_sizes_that_cannot_be_made_are_refused(healthy: Path, tmp_path, height, frames, says) -> None:
    checkpoint = resolve(str(healthy), tmp_path)
    with pytest.raises(BadInputError, match=says):
        family_of(checkpoint).check_size(checkpoint, height=height, width=32, frames=frames)


def test_statistics_of_the_latents_that_were_lost(judged, healthy: Path, copy: Path) -> None:
    """wan-latent-mean-std-on-posterior: mean and deviation fall back to 0 and 1, and nothing is raised."""
    edit_tensors(copy / VAE, lambda t: t | {"latents_std": torch.ones_like(t["latents_std"])})
    assert ("vae", "latents_std") in {place[1:] for place in places(judged("same_weights", copy, healthy))}


def test_a_schedule_without_its_terminal(judged, healthy: Path, copy: Path) -> None:
    edit_json(copy / "scheduler" / "scheduler_config.json", shift_terminal=...)
    found = places(judged("same_config", copy, healthy))
    assert ("GM401", "scheduler", "scheduler_config.json:shift_terminal") in found


def test_the_shift_that_depends_on_the_size(judged, healthy: Path, copy: Path) -> None:
    edit_json(copy / "scheduler" / "scheduler_config.json", max_shift=1.15)
    found = places(judged("same_config", copy, healthy))
    assert {code for code, _, _ in found} == {"GM401", "GM402"}


def test_a_weight_that_was_not_saved(judged, copy: Path) -> None:
    """missing-weight-left-on-meta."""
    drop_tensors(copy / TRANSFORMER, "transformer_blocks.1.attn2.to_k.weight")
    found = places(judged("coverage", copy))
    assert ("GM201", "transformer", "transformer_blocks.1.attn2.to_k.weight") in found


def test_a_generator_that_is_ignored(monkeypatch) -> None:
    """A pipeline that draws its noise from the global state: the sample follows that state."""
    from diffusers.pipelines.ltx import pipeline_ltx_image2video as module

    session = GenmodelSession(Settings(candidates=("tiny:ltx-i2v",)))
    drawn = module.randn_tensor
    monkeypatch.setattr(module, "randn_tensor", lambda *a, generator=None, **k: drawn(*a, **k))
    try:
        verdict = session.judge(0, "seeded_sampling", {})
    finally:
        session.close()
    assert ("GM502", None, "step 1") in places(verdict)


@pytest.mark.parametrize("name", NAMES)
def test_the_objective_leaves_the_image_alone_and_reaches_every_parameter(name: str, tmp_path) -> None:
    checkpoint = resolve(f"tiny:{name}", tmp_path)
    family, pipeline = family_of(checkpoint), tiny.build(name)
    clip = torch.rand((9, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    encoded = family.encode(pipeline, clip, "a red square moves right")
    assert encoded.clean is not None
    assert encoded.clean.sum() == encoded.clean.shape[1] / 3  # one of three latent frames
    loss = family.training_loss(pipeline, clip, "a red square moves right", torch.Generator().manual_seed(0))
    loss.backward()
    assert not [n for n, p in pipeline.transformer.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize(
    "claim", ["same_config", "save_load_round_trip", "seeded_sampling", "adapter_identity"]
)
def test_a_schedule_without_numbers_is_said_in_one_line(judged, healthy: Path, claim: str) -> None:
    """A terminal shift over one step divides by zero in diffusers: nothing follows for the model."""
    verdict = judged(claim, healthy, healthy, steps=1)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "makes no schedule of 1 step: its timesteps are NaN" in str(verdict.reason)
