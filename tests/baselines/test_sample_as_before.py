"""The sample on record, and whether the baseline is of this reference."""

from __future__ import annotations

import shutil

import pytest

from pytest_genmodel.baselines import record
from pytest_genmodel.baselines.store import Blob, Entry, Store
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TRANSFORMER, VAE, edit_json, edit_tensors

SCHEDULER = "scheduler/scheduler_config.json"


def nudge(file, name):
    edit_tensors(file, lambda tensors: {**tensors, name: tensors[name] + 0.1})


def edited(recorded, tmp_path, name, change):
    """A copy of the baseline with one entry changed."""
    store = Store.open(recorded)
    copy = Store(tmp_path / "edited.baseline", {key: store.get(key) for key in store})
    copy.put(name, change(copy.get(name)))
    copy.write()
    return copy.path


def elsewhere(entry):
    value = {**entry.value, "environment": {**entry.value["environment"], "diffusers": "0.1"}}
    return Entry(value, entry.tensors)


def moved(by, step=2):
    def change(entry):
        latents = entry.tensors["latents"].tensor()
        latents[step - 1].view(-1)[5] += by * latents[step - 1].abs().max()
        return Entry(entry.value, {**entry.tensors, "latents": Blob.of(latents)})

    return change


def test_same_model_here_gives_the_same_bits(against, healthy):
    verdict = against("sample_as_before", healthy)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert verdict.measurements["environment"] == "the same"
    assert verdict.measurements["limit"] == 0.0
    assert verdict.measurements["frames_apart"] == 0


def test_another_sample_of_the_same_model_is_found_at_its_step(against, healthy, recorded, tmp_path):
    other = edited(recorded, tmp_path, record.SAMPLE, moved(1e-6))

    [finding] = against("sample_as_before", healthy, other).findings

    assert (finding.code, finding.location) == ("GM021", "step 2")
    assert "the environment is the one on record" in str(finding.cause)


@pytest.mark.parametrize(("by", "outcome"), [(1e-5, Outcome.PASSED), (1e-2, Outcome.FAILED)])
def test_in_another_environment_rounding_is_no_finding(against, healthy, recorded, tmp_path, by, outcome):
    other = edited(recorded, tmp_path, record.SAMPLE, moved(by))
    shutil.copy(edited(other, tmp_path, record.PIPELINE, elsewhere), tmp_path / "both")

    verdict = against("sample_as_before", healthy, tmp_path / "both")

    assert verdict.outcome is outcome
    if verdict.findings:
        assert "diffusers was 0.1, is " in str(verdict.findings[0].cause)


def test_frames_are_looked_at_where_the_latents_agree(against, healthy, recorded, tmp_path):
    def darker(entry):
        from pytest_genmodel.baselines import observations

        kept = observations.sample_from_entry(entry, "b")
        kept.frames[4] = kept.frames[4] // 2
        return Entry(entry.value, {**entry.tensors, "frames": Blob.of(observations._pack(kept.frames))})

    [finding] = against(
        "sample_as_before", healthy, edited(recorded, tmp_path, record.SAMPLE, darker)
    ).findings

    assert (finding.code, finding.location) == ("GM021", "frame 4")


def test_another_model_may_give_another_sample(against, copy):
    nudge(copy / TRANSFORMER, "proj_out.weight")

    verdict = against("sample_as_before", copy)

    assert verdict.outcome is Outcome.SKIPPED
    assert "another model" in str(verdict.reason)


def test_a_current_baseline_is_one(against, healthy):
    verdict = against("baseline_is_current", healthy, reference=healthy)
    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


@pytest.mark.parametrize(
    ("break_it", "component", "location"),
    [
        (
            lambda folder: nudge(folder / VAE, "decoder.conv_out.conv.bias"),
            "vae",
            "decoder.conv_out.conv.bias",
        ),
        (
            lambda folder: edit_json(folder / SCHEDULER, prediction_type="epsilon"),
            "scheduler",
            "scheduler_config.json:prediction_type",
        ),
        (
            lambda folder: edit_json(folder / "tokenizer/tokenizer_config.json", padding_side="left"),
            "tokenizer",
            "tokenizer_config.json:padding_side",
        ),
    ],
    ids=["weights", "configuration", "tokens"],
)
def test_a_stale_baseline_is_found_where_the_reference_changed(
    against, healthy, copy, break_it, component, location
):
    break_it(copy)

    verdict = against("baseline_is_current", healthy, reference=copy)

    assert verdict.outcome is Outcome.FAILED
    first = verdict.findings[0]
    assert {finding.code for finding in verdict.findings} == {"GM020"}
    assert (first.component, first.location) == (component, location)
    assert "--genmodel-update-baseline" in str(first.action)


def test_a_stale_sample_is_found(against, healthy, recorded, tmp_path):
    other = edited(recorded, tmp_path, record.SAMPLE, moved(1e-2, step=1))

    [finding] = against("baseline_is_current", healthy, other, reference=healthy).findings

    assert (finding.code, finding.location) == ("GM021", "step 1")


def test_without_a_baseline_both_are_skipped(judged, healthy):
    for name in ("sample_as_before", "baseline_is_current"):
        verdict = judged(name, healthy, healthy)
        assert verdict.outcome is Outcome.SKIPPED
        assert "--genmodel-baseline" in str(verdict.reason)
