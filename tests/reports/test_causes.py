"""The cause leads in every view of a real run: missing tensors, an alpha that is lost, a VAE's scaling factor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_genmodel.audit.subject import write_adapter
from pytest_genmodel.faults.copy import clone
from pytest_genmodel.faults.registry import all_faults
from pytest_genmodel.reports.report import SCHEMA_FILE

SCHEMA = json.loads(SCHEMA_FILE.read_text())


@pytest.fixture
def judged_run(run, report, healthy, tmp_path):
    """Inject faults, run a part of the suite, and give the document and the terminal's section."""

    def judge(*names: str, select: str, adapter: bool = False) -> tuple[dict[str, Any], str]:
        subject = write_adapter(healthy, tmp_path / "adapter") if adapter else healthy
        faulty = clone(subject, tmp_path / "faulty")
        for name in names:
            all_faults()[name].inject(faulty, healthy)
        result = run(
            f"--genmodel-ckpt={faulty}",
            f"--genmodel-ref={healthy}",
            "--genmodel-json=report.json",
            "--genmodel-report=report.html",
            "-k",
            select,
            candidate=False,
        )
        document = report()
        jsonschema.validate(document, SCHEMA)
        return document, result.stdout.str().partition("= genmodel =")[2]

    return judge


def page_of(pytester: pytest.Pytester) -> str:
    return (Path(pytester.path) / "report.html").read_text(encoding="utf-8")


def test_missing_tensor_explains_the_sample_that_cannot_be_made(judged_run, pytester):
    document, said = judged_run("tensor_missing", select="coverage or same_weights or same_config or seeded")

    [cause] = document["causes"]
    tensor = "transformer_blocks.0.attn1.to_k.weight"
    assert (cause["code"], cause["component"], cause["location"]) == ("GM201", "transformer", tensor)
    assert (cause["id"], cause["confidence"]) == ("genmodel::checkpoint::coverage", "certain")
    assert [one["code"] for one in cause["explains"]] == ["GM207"]
    assert [one["id"] for one in cause["unjudged"]] == ["genmodel::sampling::seeded_sampling"]
    assert said.index("root cause, certain:\nGM201") < said.index("explains: GM207")
    assert "leaves unjudged: seeded_sampling (each needs what is damaged)" in said
    assert "ruled out: names and shapes" in said
    assert "inconclusive: seeded_sampling" not in said
    assert "replay: pytest" in said
    assert 'Root cause, certain</p>\n<h3 id="cause-1-1"><a class="code" href="#rule-GM201">' in page_of(
        pytester
    )


def test_alpha_that_is_lost_is_what_stands_out(judged_run):
    document, said = judged_run(
        "alpha_lost", select="sound_weights or same_weights or same_config", adapter=True
    )

    [cause] = document["causes"]
    assert (cause["code"], cause["severity"], cause["confidence"]) == ("GM803", "warning", "possible")
    assert cause["location"] == "pytorch_lora_weights.safetensors:lora_alpha"
    assert "weights of text_encoder, transformer, vae (322 tensors identical) below the adapter" in [
        one["text"] for one in cause["ruled_out"]
    ]
    assert "GM803 adapter without alpha (warning)" in said
    assert "root cause" not in said, "nothing fails"


def test_scaling_factor_explains_what_the_denoiser_is_given(judged_run):
    document, said = judged_run("scaling_factor_of_another_model", select="checkpoint or denoiser_call")

    [cause] = document["causes"]
    assert (cause["code"], cause["component"], cause["location"]) == (
        "GM401",
        "vae",
        "config.json:scaling_factor",
    )
    assert [(one["code"], one["location"]) for one in cause["explains"]] == [
        ("GM901", "hidden_states[channels 4:8]")
    ]
    assert cause["conclusion"] == (
        "weights identical, schedule as configured, so the difference is in the configuration of the vae"
    )
    assert "explains: GM901 denoiser is given another condition (it makes what the denoiser is given)" in said


def test_two_damages_are_both_told_in_full(judged_run):
    document, said = judged_run("tensor_of_the_vae_missing", "another_prediction_type", select="checkpoint")

    assert [(one["code"], one["component"]) for one in document["causes"]] == [
        ("GM201", "vae"),
        ("GM401", "scheduler"),
    ]
    assert "root cause 1 of 2, certain:\nGM201" in said
    assert "root cause 2 of 2, certain:\nGM401" in said
    assert "scheduler: scheduler_config.json:prediction_type" in said


def test_sound_candidate_says_nothing_of_causes(run, report):
    result = run("--genmodel-json=report.json", "-k", "coverage or sound_weights")

    assert report()["causes"] == []
    assert "root cause" not in result.stdout.str()
    assert "ruled out" not in result.stdout.str()
