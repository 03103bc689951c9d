"""denoiser_call: the same arguments and the same answers, and where they part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.tiny.cogvideox_trained import FOLDER
from tests.editing import TRANSFORMER, VAE, edit_json, edit_tensors

NAME = "denoiser_call"
TEXT_ENCODER = "text_encoder/model.safetensors"


@pytest.fixture
def trained(tmp_path):
    return Path(shutil.copytree(FOLDER, tmp_path / "candidate"))


def scaled(part: str, factor: float = 1.1):
    return lambda tensors: {
        name: tensor * factor if part in name and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def test_equal_models_are_proven_equal_without_a_sample(judged, trained):
    verdict = judged(NAME, trained, FOLDER)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert "proven equal" in verdict.measurements["calls"]


def test_equal_models_agree_at_the_full_level(judged, healthy, copy):
    verdict = judged(NAME, copy, healthy, level="full", steps=2)

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["components"] == 4  # text encoder, encoder, denoiser, decoder


@pytest.mark.parametrize("expect", [None, "finetuned"])
def test_denoiser_that_may_differ_is_no_finding(judged, trained, expect):
    edit_tensors(trained / TRANSFORMER, scaled("attn1.to_q.weight"))

    verdict = judged(NAME, trained, FOLDER, expect=expect)

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["arguments"] == 5


def tokenizer_without_words(folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = stored["model"]["vocab"]
    words = [place for place, entry in enumerate(vocabulary) if entry[0].lstrip("▁").isalpha()]
    for first, second in zip(words[::2], words[1::2], strict=False):
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(stored), encoding="utf-8")


# what the fault is -> (damage, first code, location, part of the cause of a condition that differs)
FAULTS = {
    "another scaling factor": (
        lambda folder: edit_json(folder / "vae/config.json", scaling_factor=1.15),
        "GM901", "hidden_states[channels 8:16]", "factor of their configuration",
    ),
    "another encoder": (
        lambda folder: edit_tensors(folder / VAE, scaled("encoder.conv_out")),
        "GM901", "hidden_states[channels 8:16]", "the vae answers otherwise",
    ),
    "another decoder": (
        lambda folder: edit_tensors(folder / VAE, scaled("decoder.conv_out", 1.3)), "GM906", "vae.decode", "",
    ),
    "another text encoder": (
        lambda folder: edit_tensors(folder / TEXT_ENCODER, scaled("wi_0")),
        "GM901", "encoder_hidden_states", "the text_encoder answers otherwise",
    ),
    "another tokenizer": (
        tokenizer_without_words, "GM901", "encoder_hidden_states", "text_encoder or tokenizer",
    ),
    "other timesteps": (
        lambda folder: edit_json(folder / "scheduler/scheduler_config.json", timestep_spacing="leading"),
        "GM903", "timestep", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named_with_the_argument_and_the_component(judged, trained, fault):
    damage, code, location, cause = FAULTS[fault]
    damage(trained)

    verdict = judged(NAME, trained, FOLDER, expect="finetuned")

    assert verdict.outcome is Outcome.FAILED, verdict.reason
    first = verdict.findings[0]
    assert (first.code, first.location, cause in (first.cause or "")) == (code, location, True), (
        verdict.findings
    )


def test_denoiser_that_must_not_differ_is_given_the_same_and_answers_otherwise(judged, trained):
    edit_tensors(trained / TRANSFORMER, scaled("attn1.to_q.weight"))

    verdict = judged(NAME, trained, FOLDER, expect="identical")

    assert [(finding.code, finding.component) for finding in verdict.findings] == [("GM907", "transformer")]


def test_schedule_that_parts_on_the_way_is_told(judged, trained):
    edit_json(trained / "scheduler/scheduler_config.json", snr_shift_scale=2.0)

    verdict = judged(NAME, trained, FOLDER, expect="identical")

    assert [finding.code for finding in verdict.findings] == ["GM909"]


def test_sample_is_shared_with_seeded_sampling(trained):
    from pytest_genmodel.session import GenmodelSession
    from pytest_genmodel.settings import Settings

    edit_tensors(trained / TRANSFORMER, scaled("attn1.to_q.weight"))
    session = GenmodelSession(Settings(candidates=(str(trained),), reference=str(FOLDER)))
    try:
        session.judge(0, NAME, {})
        session.judge(0, "seeded_sampling", {})
        assert session.samples.computed == 4  # a side each, and two more of seeded_sampling's three
    finally:
        session.close()
