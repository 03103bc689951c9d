"""Judging a saved run again: what was kept decides, and what it does not tell is never assumed."""

from __future__ import annotations

import math
from dataclasses import replace

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_genmodel.diagnosis.allowance import parse
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.sampling import Sample
from pytest_genmodel.runs.again import NewPolicy, judge_again
from pytest_genmodel.runs.observed import MOST_BYTES, bounded, record
from pytest_genmodel.tensors import Tolerance, bitwise, close, compare, cosine, psnr, ulp
from tests.reports.test_json import SCHEMA
from tests.runs.runs import compared, finding, sample, saved


def again(run, **policy):
    report = judge_again(run, NewPolicy(**policy))
    jsonschema.validate(report.to_json(), SCHEMA)
    [verdict] = report.verdicts
    return report, verdict


def under(run, tolerance):
    return again(run, tolerances={"": tolerance})


def test_as_it_was_without_another_policy(tmp_path):
    run = saved(tmp_path / "run", compared(sample(0.5, step=1), sample()))

    report, verdict = again(run)

    assert report.verdicts == run.report["verdicts"]
    assert (verdict["outcome"], report.exit_status) == ("failed", 1)


@pytest.mark.parametrize(
    ("strict", "was", "outcome"),
    [(True, "passed", "failed"), (None, "passed", "passed"), (False, "failed", "passed")],
)
def test_warnings(tmp_path, strict, was, outcome):
    run = saved(
        tmp_path / "run",
        strict=was == "failed",
        outcome=was,
        findings=[finding("GM307", "warning")],
    )

    report, verdict = again(run, strict=strict)

    assert (verdict["outcome"], report.exit_status) == (outcome, int(outcome == "failed"))


def test_what_broke_off_is_not_passed_when_what_it_found_is_no_failure_any_more(tmp_path):
    run = saved(
        tmp_path / "run", outcome="failed", reason="no memory", findings=[finding("GM307", "warning")]
    )

    assert again(run, strict=False)[1]["outcome"] == "inconclusive"


@pytest.mark.parametrize("outcome", ["skipped", "inconclusive"])
def test_what_was_not_judged_stays_so(tmp_path, outcome):
    run = saved(tmp_path / "run", outcome=outcome, reason="no memory")

    report, verdict = again(run, strict=True)

    assert (verdict["outcome"], report.exit_status) == (outcome, 1)


def test_allowances_are_added_and_forgotten(tmp_path):
    run = saved(tmp_path / "one", outcome="failed", findings=[finding("GM301")])

    _, verdict = again(run, allow=[parse("GM301@transformer: trained on purpose")])
    assert verdict["outcome"] == "passed"
    [note] = verdict["findings"]
    assert (note["severity"], note["allowed"]["severity"]) == ("note", "error")
    assert note["message"].endswith("(allowed: trained on purpose)")

    run = saved(tmp_path / "two", findings=[note])
    assert again(run)[1]["outcome"] == "passed"
    _, verdict = again(run, forget_allowed=True)
    assert verdict["outcome"] == "failed"
    assert verdict["findings"][0] == {**finding("GM301"), "allowed": None}


def test_an_allowance_for_another_candidate_or_place_does_not_hold(tmp_path):
    run = saved(tmp_path / "run", outcome="failed", findings=[finding("GM301")])

    assert again(run, allow=[parse(f"GM301#sha256:{'a' * 12}: this one")])[1]["outcome"] == "passed"
    other = again(run, allow=[parse(f"GM301#sha256:{'b' * 12}: that one")])[1]
    assert other["outcome"] == "failed"
    assert f"another candidate (this one is sha256:{'a' * 12})" in other["findings"][0]["action"]
    elsewhere = again(run, allow=[parse("GM301@vae: the other")])[1]
    assert (elsewhere["outcome"], elsewhere["findings"]) == ("failed", [finding("GM301")])


TOLERANCES = st.one_of(
    st.just(bitwise),
    st.integers(0, 2**24).map(ulp),
    st.builds(close, st.just(0.0), st.floats(0, 1)),
    st.builds(close, st.floats(1e-6, 1), st.floats(0, 0.1)),
    st.builds(psnr, st.floats(-10, 80), st.sampled_from([1.0, 2.0, 255.0])),
    st.floats(-1, 1).map(cosine),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(tolerance=TOLERANCES, offset=st.sampled_from([1e-7, 1e-4, 0.01, 0.3]), step=st.integers(1, 2))
def test_another_tolerance_gives_what_judging_anew_would(tmp_path_factory, tolerance, offset, step):
    ours, theirs = sample(offset, step=step), sample()
    run = saved(tmp_path_factory.mktemp("runs") / "run", compared(ours, theirs))

    [verdict] = judge_again(run, NewPolicy(tolerances={"": tolerance})).verdicts

    holds = compare(ours.latents[step - 1], theirs.latents[step - 1], tolerance).passed
    assert verdict["outcome"] == ("passed" if holds else "failed")
    if not holds:
        [found] = verdict["findings"]
        assert (found["code"], found["location"]) == ("GM501", f"step {step}")
        assert found["evidence"]["limit"]["tolerance"] == tolerance.spelled()


def test_the_smallest_tolerance_of_a_failure_passes_and_a_smaller_does_not(tmp_path):
    run = saved(tmp_path / "run", compared(sample(0.25, frame=3), sample()))
    [found] = run.report["verdicts"][0]["findings"]
    enough = Tolerance.parse(found["evidence"]["limit"]["smallest_tolerance"])

    assert under(run, enough)[1]["outcome"] == "passed"
    _, verdict = under(run, close(atol=0.99 * enough.atol))
    assert verdict["outcome"] == "failed"
    assert Tolerance.parse(verdict["findings"][0]["evidence"]["limit"]["smallest_tolerance"]) == enough


def test_a_pass_under_a_tolerance_fails_under_a_tighter_one(tmp_path):
    run = saved(tmp_path / "run", compared(sample(0.01, step=2), sample(), close(atol=1.0)))
    assert run.report["verdicts"][0]["outcome"] == "passed"

    _, verdict = under(run, close(atol=1e-4))

    assert verdict["outcome"] == "failed"
    assert (verdict["findings"][0]["code"], verdict["findings"][0]["location"]) == ("GM501", "step 2")


def test_only_the_claim_that_is_named_gets_the_tolerance(tmp_path):
    run = saved(tmp_path / "run", compared(sample(0.5, step=1), sample()))

    assert again(run, tolerances={"seeded_sampling": close(atol=1.0)})[1]["outcome"] == "passed"
    with pytest.raises(BadInputError, match=r"'reproducible'.*compared: seeded_sampling"):
        again(run, tolerances={"reproducible": close(atol=1.0)})
    with pytest.raises(BadInputError, match="no samples were compared"):
        again(saved(tmp_path / "other"), tolerances={"": close(atol=1.0)})


def test_what_a_failure_kept_from_being_judged_is_not_taken_as_passed(tmp_path):
    run = saved(tmp_path / "run", compared(sample(0.5, step=1), sample(), ends=True))

    _, verdict = under(run, close(atol=1.0))

    assert verdict["outcome"] == "inconclusive"
    assert "was not run" in verdict["reason"]


def test_values_that_were_not_kept_leave_it_open(tmp_path):
    comparison = compared(sample(0.5, step=1), sample())
    run = saved(tmp_path / "run", comparison, most=0)
    assert not (run.path / "observations.safetensors").exists()

    assert under(run, close(rtol=0.5))[1]["outcome"] == "inconclusive"
    assert under(run, close(atol=1.0))[1]["outcome"] == "passed", "the figures decide"
    assert under(run, close(rtol=0.5, atol=1.0))[1]["outcome"] == "passed"
    assert under(run, psnr(-10))[1]["outcome"] == "passed"


@pytest.mark.parametrize("tight", [psnr(300), psnr(300, 255), cosine(1.0)])
def test_limits_on_the_whole_are_kept_to_the_last_bit(tmp_path, tight):
    ours, theirs = sample(0.5, step=1), sample()
    run = saved(tmp_path / "run", compared(ours, theirs), most=0)
    exact = compare(ours.latents[0], theirs.latents[0], tight).minimum
    figure = "minimum" if exact.kind == "cosine" else "db"
    higher = replace(exact, **{figure: math.nextafter(getattr(exact, figure), math.inf)})

    assert under(run, exact)[1]["outcome"] == "passed"
    assert under(run, higher)[1]["outcome"] == "failed"


def test_nothing_is_relative_to_zero(tmp_path):
    ours, theirs = (
        Sample(torch.ones(1, 4), torch.zeros(1, 3, 2, 2)),
        Sample(torch.zeros(1, 4), torch.zeros(1, 3, 2, 2)),
    )
    run = saved(tmp_path / "run", compared(ours, theirs), most=0)

    assert under(run, close(rtol=0.9, atol=0.5))[1]["outcome"] == "failed"
    assert under(run, close(rtol=0.9, atol=1.0))[1]["outcome"] == "passed"


def test_the_pursuit_of_a_difference_goes_with_it(tmp_path):
    pursued = finding("GM954", location="transformer_blocks.0")
    run = saved(tmp_path / "run", compared(sample(0.5, step=1), sample()), findings=[pursued])

    _, verdict = under(run, close(atol=1.0))
    assert (verdict["outcome"], verdict["findings"]) == ("passed", [])
    assert [f["code"] for f in under(run, close(atol=0.1))[1]["findings"]] == ["GM501", "GM954"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nothing_passes_a_value_that_is_no_number(tmp_path, value):
    broken = sample()
    broken.frames[2, 0, 0, 0] = value
    run = saved(tmp_path / "run", compared(broken, sample()))

    for tolerance in (psnr(-100), close(rtol=1.0, atol=1e30), ulp(2**40)):
        assert under(run, tolerance)[1]["outcome"] == "failed"


def test_another_shape_passes_nothing(tmp_path):
    run = saved(tmp_path / "run", compared(sample(frames=5), sample(frames=6)))

    assert under(run, close(atol=9.0))[1]["outcome"] == "failed"


def test_a_run_that_was_red_for_another_reason_stays_red(tmp_path):
    run = saved(tmp_path / "run")
    run.report["exit_status"] = 1

    assert again(run)[0].exit_status == 1


def test_values_are_bounded_and_the_largest_go_first():
    ours = Sample(torch.zeros(2, 10), torch.zeros(3, 3, 4, 4))
    theirs = Sample(torch.ones(2, 10), torch.ones(3, 3, 4, 4))
    one = record(compared(ours, theirs))
    assert all(place["values"] is not None for place in one["places"])

    dropped = bounded([one], most=2 * 2 * 10 * 4)

    assert [place["place"] for place in one["places"] if place["values"] is not None] == ["step 1", "step 2"]
    assert dropped == [f"the same seed again, frame {n}: {2 * 3 * 16 * 4} bytes" for n in range(3)]
    assert MOST_BYTES == 64_000_000
