"""sound_weights: the candidate's own files, by themselves."""

from __future__ import annotations

import shutil

import pytest

from pytest_genmodel.diagnosis import at_rest
from pytest_genmodel.diagnosis.at_rest import part
from pytest_genmodel.faults.registry import all_faults
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TRANSFORMER, edit_tensors


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The files whose values were read."""
    files: list[str] = []
    statistics = part.statistics

    def watched(weights, *arguments, **more):
        files.extend(str(path.resolve()) for path in weights.files)
        return statistics(weights, *arguments, **more)

    monkeypatch.setattr(part, "statistics", watched)
    return files


def test_every_weight_of_the_candidate_is_examined_without_a_reference(judged, healthy, read):
    verdict = judged("sound_weights", healthy)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert verdict.measurements["tensors_examined"] > 300
    assert len(read) == 3


def test_what_comes_from_the_reference_is_not_read(judged, healthy, tmp_path, read):
    own = shutil.copytree(healthy / "transformer", tmp_path / "transformer")

    verdict = judged("sound_weights", own, healthy)

    assert (verdict.outcome, verdict.measurements["tensors_examined"]) == (Outcome.PASSED, 65)
    assert [path for path in read if not path.startswith(str(tmp_path))] == []


def test_candidate_that_is_the_reference_is_examined_all_the_same(judged, healthy, read):
    verdict = judged("sound_weights", healthy, healthy)

    assert verdict.measurements["tensors_examined"] > 300
    assert len(read) == 3


def test_candidate_without_weights_of_its_own_is_skipped(judged, healthy, tmp_path):
    shutil.copytree(healthy / "scheduler", tmp_path / "run/scheduler")
    shutil.copytree(healthy / "transformer", tmp_path / "run/transformer")
    for name in ("vae", "text_encoder", "transformer"):
        shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
        (tmp_path / "run" / name).symlink_to(healthy / name)

    verdict = judged("sound_weights", tmp_path / "run", healthy)

    assert verdict.outcome is Outcome.SKIPPED
    assert "no weights of its own" in verdict.reason


def test_file_that_cannot_be_read_is_inconclusive_and_told_by_coverage(judged, copy):
    (copy / TRANSFORMER).write_bytes(b"\xff" * 100)

    verdict = judged("sound_weights", copy)

    assert (verdict.outcome, verdict.findings) == (Outcome.INCONCLUSIVE, ())
    assert "transformer" in verdict.reason
    assert "see coverage" in verdict.reason
    assert [f.code for f in judged("coverage", copy).findings] == ["GM101"]


def test_fault_beside_a_file_that_cannot_be_read_still_fails(judged, copy):
    (copy / TRANSFORMER).write_bytes(b"\xff" * 100)
    edit_tensors(
        copy / "text_encoder/model.safetensors", lambda t: {n: v * float("nan") for n, v in t.items()}
    )

    verdict = judged("sound_weights", copy)

    assert verdict.outcome is Outcome.FAILED
    assert [(f.code, f.component) for f in verdict.findings] == [("GM304", "text_encoder")]


@pytest.mark.parametrize("name", ["lora_still_attached", "stale_safetensors", "class_of_its_own"])
def test_what_coverage_tells_is_not_told_twice(judged, copy, name):
    all_faults()[name].inject(copy)

    assert judged("sound_weights", copy).findings == ()


def test_checks_left_to_coverage_are_checks():
    known = {
        *at_rest.CHECKPOINT_CHECKS,
        *at_rest.FOLDER_CHECKS,
        *at_rest.WEIGHT_CHECKS,
        *at_rest.ADAPTER_CHECKS,
    }

    assert known > at_rest.SEEN_BY_COVERAGE
