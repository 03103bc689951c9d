"""Sana-Video image-to-video: a healthy model passes, real faults are found where they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.resolve import resolve
from tests.editing import TRANSFORMER, drop_tensors, edit_json
from tests.pipelines.families.whole import check_build, check_suite, places

NAME = "sana-video-i2v"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    return tiny.materialise(NAME, tmp_path_factory.mktemp("sana"))


@pytest.fixture
def copy(healthy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(healthy, tmp_path / "copy"))


def test_the_build_is_equal_everywhere() -> None:
    check_build(NAME)


def test_the_suite_passes() -> None:
    check_suite(NAME)


def test_the_objective_reaches_every_parameter(tmp_path) -> None:
    checkpoint = resolve(f"tiny:{NAME}", tmp_path)
    family, pipeline = family_of(checkpoint), tiny.build(NAME)
    clip = torch.rand((9, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    loss = family.training_loss(pipeline, clip, "a red square moves right", torch.Generator().manual_seed(0))
    loss.backward()
    assert not [n for n, p in pipeline.transformer.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_shift_that_was_lost(judged, healthy: Path, copy: Path) -> None:
    """runtime-shift-not-serialised: the schedule falls back to the class's default."""
    edit_json(copy / "scheduler" / "scheduler_config.json", shift=...)
    found = places(judged("same_config", copy, healthy))
    assert {code for code, _, _ in found} == {"GM401", "GM402"}
    assert ("GM401", "scheduler", "scheduler_config.json:shift") in found


def test_a_norm_of_the_text_that_was_not_saved(judged, copy: Path) -> None:
    drop_tensors(copy / TRANSFORMER, "caption_norm.weight")
    assert ("GM201", "transformer", "caption_norm.weight") in places(judged("coverage", copy))


def test_a_tokenizer_that_was_deleted(judged, copy: Path) -> None:
    (copy / "tokenizer" / "tokenizer.json").unlink()
    assert ("GM107", "tokenizer", "tokenizer/") in places(judged("coverage", copy))
