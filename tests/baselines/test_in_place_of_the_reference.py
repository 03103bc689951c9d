"""A baseline judges as the reference itself would: the same faults by the same codes, and no false alarms."""

from __future__ import annotations

import pytest

from pytest_genmodel.audit.subject import fine_tuned
from pytest_genmodel.faults.copy import Copy, clone
from pytest_genmodel.faults.legitimate import all_differences
from pytest_genmodel.faults.misses import MISSES
from pytest_genmodel.faults.registry import all_faults
from pytest_genmodel.invariants.verdict import Outcome

CLAIMS = ("same_weights", "same_config")
DIFFERENCES = all_differences()
FAULTS = {
    name: fault
    for name, fault in all_faults().items()
    if fault.invariant in CLAIMS
    and fault.kind == "checkpoint"
    and fault.model == "cogvideox-i2v"
    and fault.code is not None
    and name not in MISSES
}
OTHERWISE = {
    "cut_at_a_wrong_offset": ("GM301", "error"),
    "matrix_transposed": ("GM317", "error"),
    "rotary_pairs_in_halves": ("GM317", "warning"),
    "shift_and_scale_exchanged": ("GM317", "warning"),
    "image_before_the_noise": ("GM317", "warning"),
    "kernels_run_backwards_in_time": ("GM301", "error"),
    "one_layer_scaled": ("GM306", "note"),
    "fused_projections_cut_in_thirds": ("GM317", "warning"),
    "axes_in_reverse": ("GM317", "warning"),
    "bits_of_another_dtype": ("GM306", "note"),
    "average_begun_at_zero": ("GM306", "note"),
    "share_of_one_process": ("GM306", "note"),
    "adapter_merged_twice": ("GM306", "note"),
    "stretch_written_over": ("GM301", "error"),
}
"""Shifts, orders, factors and shares show in the values of the reference alone: without them, tensors differ."""


@pytest.fixture(scope="session")
def tuned(healthy, tmp_path_factory):
    """An honest fine-tune of the healthy pipeline."""
    return fine_tuned(healthy, tmp_path_factory.mktemp("tuned") / "tuned")


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_without_the_weights(against, healthy, tuned, tmp_path, name):
    fault = FAULTS[name]
    copy = clone(tuned if fault.expect == "finetuned" else healthy, tmp_path / "faulty")
    path, place = fault.inject(copy, healthy)

    verdict = against(fault.invariant, path, level="static", expect=fault.expect)

    code, severity = OTHERWISE.get(name, (fault.code, fault.severity))
    [finding, *_] = [finding for finding in verdict.findings if finding.code == code]
    assert verdict.outcome is (Outcome.FAILED if severity == "error" else Outcome.PASSED)
    if place.component is not None:
        assert finding.component == place.component


@pytest.mark.parametrize("name", DIFFERENCES)
def test_same_model_is_not_flagged(against, healthy, tmp_path, name):
    folder = clone(healthy, tmp_path / "copy")
    DIFFERENCES[name].make(Copy(folder))

    verdicts = [against(claim, folder, level="static", expect="identical") for claim in CLAIMS]

    assert [verdict.outcome for verdict in verdicts] == [Outcome.PASSED] * 2
    assert [f for v in verdicts for f in v.findings if f.severity and f.severity.value != "note"] == []


def test_a_fine_tune_is_one_and_its_drift_is_about_what_it_is(against, judged, healthy, tuned):
    estimated = against("same_weights", tuned, level="static", expect="finetuned")
    exact = judged("same_weights", tuned, healthy, level="static", expect="finetuned")

    assert estimated.outcome is exact.outcome is Outcome.PASSED
    [finding], [other] = estimated.findings, exact.findings
    assert finding.code == other.code == "GM306"
    assert "estimated from a sketch" in finding.message or "without the weights" in finding.message
    assert estimated.measurements["baseline"]["made_of"] == healthy.name
    ours, theirs = estimated.measurements["transformer"], exact.measurements["transformer"]
    assert ours["changed"] == theirs["changed"]
    assert ours["median_relative_difference"] == pytest.approx(theirs["median_relative_difference"], rel=0.05)
    assert ours["largest_relative_difference"] == pytest.approx(
        theirs["largest_relative_difference"], rel=0.2
    )
    assert ours["largest_relative_norm_change"] == pytest.approx(
        theirs["largest_relative_norm_change"], rel=1e-2
    )


def test_what_needs_the_weights_is_skipped_with_its_reason(against, healthy):
    verdict = against("denoiser_call", healthy)

    assert verdict.outcome is Outcome.SKIPPED
    assert verdict.reason == "needs the reference's weights, and a baseline holds none (--genmodel-ref)"
