"""sound_weights: the candidate's own files, by themselves."""

from __future__ import annotations

import shutil

import pytest
import torch

from pytest_genmodel.diagnosis import at_rest
from pytest_genmodel.diagnosis.at_rest import part
from pytest_genmodel.faults.registry import all_faults
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TRANSFORMER, edit_json, edit_tensors
from tests.invariants.test_coverage_adapter import as_peft


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


@pytest.fixture
def lora(tmp_path):
    """A PEFT folder whose LoRA has rank 4 and alpha 8."""
    factors = {
        f"transformer.transformer_blocks.{block}.attn1.to_q.lora_{half}.weight": torch.ones(shape)
        for block in range(2)
        for half, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    return as_peft(factors, tmp_path / "lora")


def test_adapter_whose_alpha_is_zero_does_nothing(judged, healthy, lora):
    edit_json(lora / "adapter_config.json", lora_alpha=0, target_modules=["to_q"])

    [finding] = judged("sound_weights", lora, healthy).findings

    assert finding.code == "GM802"
    assert "the scale 0" in finding.message


def test_peft_folder_that_lost_its_configuration_is_said_to_have_no_alpha(judged, healthy, lora):
    (lora / "adapter_config.json").unlink()

    assert "GM803" in [finding.code for finding in judged("sound_weights", lora, healthy).findings]
