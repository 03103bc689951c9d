"""same_weights: exact, by expectation; lossless casts are equal, roundings are not."""

from __future__ import annotations

import shutil

import pytest
import torch

from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TO_Q, TRANSFORMER, VAE, drop_tensors, edit_tensors

CONV = "decoder.conv_in.conv.weight"


def scaled(name: str, factor: float):
    return lambda tensors: tensors | {name: tensors[name] * factor}


def cast(*dtypes: torch.dtype):
    def change(tensors):
        for dtype in dtypes:
            tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        return tensors

    return change


def test_holds_for_a_copy_and_counts_every_tensor(judged, copy, healthy):
    verdict = judged("same_weights", copy, healthy)

    assert verdict.outcome is Outcome.PASSED
    assert verdict.measurements["tensors_compared"] > 300
    assert verdict.measurements["transformer"]["changed"] == 0


def test_is_skipped_without_a_reference_and_says_how_to_give_one(judged, healthy):
    verdict = judged("same_weights", healthy)

    assert verdict.outcome is Outcome.SKIPPED
    assert "--genmodel-ref" in verdict.reason


def test_forbidden_change_is_named_with_what_it_looks_like(judged, copy, healthy):
    edit_tensors(copy / VAE, scaled(CONV, 1.01))

    verdict = judged("same_weights", copy, healthy)

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component, finding.location) == ("GM301", "vae", CONV)
    assert finding.evidence["worst"][CONV]["likeness"] == "scaled"
    assert "1.01" in finding.message


def test_uniform_rescale_of_the_denoiser_is_always_measured(judged, copy, healthy):
    edit_tensors(copy / TRANSFORMER, lambda tensors: {name: t * 1.01 for name, t in tensors.items()})

    verdict = judged("same_weights", copy, healthy)

    assert verdict.outcome is Outcome.PASSED
    assert verdict.measurements["transformer"]["largest_relative_norm_change"] == pytest.approx(
        0.01, rel=1e-3
    )
    assert [finding.code for finding in verdict.findings] == ["GM306"]


@pytest.mark.parametrize(
    ("expect", "change", "outcome", "code"),
    [
        ("identical", True, Outcome.FAILED, "GM301"),
        ("identical", False, Outcome.PASSED, None),
        ("finetuned", True, Outcome.PASSED, "GM306"),
        ("finetuned", False, Outcome.FAILED, "GM302"),
        ("adapter", True, Outcome.FAILED, "GM301"),
        ("adapter", False, Outcome.FAILED, "GM302"),
        (None, True, Outcome.PASSED, "GM306"),
        (None, False, Outcome.PASSED, None),
    ],
)
def test_expectation_decides(judged, copy, healthy, expect, change, outcome, code):
    if change:
        edit_tensors(copy / TRANSFORMER, scaled(TO_Q, 1.5))

    verdict = judged("same_weights", copy, healthy, expect=expect)

    assert verdict.outcome is outcome
    assert code in [finding.code for finding in verdict.findings] or code is None


def test_cast_that_loses_nothing_is_equal(judged, healthy, tmp_path):
    half = shutil.copytree(healthy, tmp_path / "half")
    edit_tensors(half / TRANSFORMER, cast(torch.float16))
    wide = shutil.copytree(half, tmp_path / "wide")
    edit_tensors(wide / TRANSFORMER, cast(torch.float32))

    assert judged("same_weights", wide, half, expect="identical").findings == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_not_equal(judged, copy, healthy, dtype):
    edit_tensors(copy / VAE, cast(dtype))

    findings = judged("same_weights", copy, healthy).findings

    assert [finding.code for finding in findings] == ["GM305"]
    assert str(dtype).removeprefix("torch.") in findings[0].message


def test_rounding_there_and_back_is_recognised(judged, copy, healthy):
    edit_tensors(copy / VAE, cast(torch.bfloat16, torch.float32))

    [finding] = judged("same_weights", copy, healthy).findings

    assert finding.code == "GM301"
    assert "bfloat16" in finding.message


def test_missing_and_added_tensors_are_named(judged, copy, healthy):
    drop_tensors(copy / VAE, CONV)
    edit_tensors(copy / VAE, lambda tensors: tensors | {"new.weight": torch.ones(2)})

    findings = judged("same_weights", copy, healthy).findings

    assert [(f.code, f.location) for f in findings] == [("GM207", CONV), ("GM207", "new.weight")]


def test_resharded_reordered_model_is_the_same(judged, copy, healthy):
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel.from_pretrained(copy / "transformer")
    shutil.rmtree(copy / "transformer")
    model.save_pretrained(copy / "transformer", max_shard_size="40KB")

    assert judged("same_weights", copy, healthy, expect="identical").findings == ()


def test_values_of_the_founding_incident_are_those_of_the_reference(judged, healthy, tmp_path):
    findings = judged("same_weights", adapter_wrapped(healthy, tmp_path / "incident"), healthy).findings

    assert [finding.code for finding in findings] == ["GM203"]


def test_same_files_need_no_reading(judged, healthy):
    verdict = judged("same_weights", healthy, healthy)

    assert verdict.outcome is Outcome.PASSED
    assert verdict.measurements["tensors_compared"] > 300
