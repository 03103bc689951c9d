"""coverage of folders: what a pipeline lacks, and what lies beside it and is read by nobody."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import edit_json

PARTS = ["scheduler", "text_encoder", "tokenizer", "transformer", "vae"]
LEVELS = pytest.mark.parametrize("level", ["static", "quick"])


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


# --- what is missing ------------------------------------------------------------------------------------------------


@LEVELS
@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
@pytest.mark.parametrize("left", ["nothing", "config.json", "a note"])
def test_a_model_without_weights_is_found_whatever_else_lies_there(judged, copy, part, left, level):
    folder = copy / part
    config = (folder / "config.json").read_text()
    emptied(folder)
    if left != "nothing":
        (folder / ("config.json" if left == "config.json" else "README.md")).write_text(config)

    [finding] = judged("coverage", copy, level=level).findings

    assert (finding.code, finding.component, finding.location) == ("GM103", part, f"{part}/")
    assert "no weights" in finding.message


@LEVELS
def test_a_scheduler_without_its_configuration_is_found(judged, copy, level):
    emptied(copy / "scheduler")

    [finding] = judged("coverage", copy, level=level).findings

    assert (finding.code, finding.component) == ("GM103", "scheduler")


@LEVELS
def test_an_empty_tokenizer_is_found(judged, copy, level):
    emptied(copy / "tokenizer")

    [finding] = judged("coverage", copy, level=level).findings

    assert (finding.code in ("GM107", "GM108"), finding.component) == (True, "tokenizer")


@LEVELS
@pytest.mark.parametrize("entry", [..., [None, None]], ids=["absent", "null"])
@pytest.mark.parametrize("part", PARTS)
def test_a_component_that_the_index_does_not_give_is_found(judged, copy, part, entry, level):
    edit_json(copy / "model_index.json", **{part: entry})
    shutil.rmtree(copy / part)

    verdict = judged("coverage", copy, level=level)

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component) == ("GM103", part)
    assert finding.location == f"model_index.json:{part}"
    assert f"the checkpoint has no {part}" in finding.message


def test_a_component_that_was_only_forgotten_in_the_index_is_missing_and_lies_there(judged, copy):
    edit_json(copy / "model_index.json", vae=...)

    findings = judged("coverage", copy).findings

    assert [(f.code, f.location) for f in findings] == [
        ("GM103", "model_index.json:vae"),
        ("GM106", "vae"),
    ]


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_broken_index_is_found_and_what_needs_no_weights_is_judged_all_the_same(judged, copy, part):
    (copy / part / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": 3}')

    [finding] = judged("coverage", copy, level="static").findings

    assert (finding.code, finding.component) == ("GM101", part)
    assert judged("known_fields", copy).outcome is Outcome.PASSED


def test_a_component_that_the_class_can_do_without_is_not_missed(judged, copy, monkeypatch):
    from diffusers import CogVideoXImageToVideoPipeline

    monkeypatch.setattr(CogVideoXImageToVideoPipeline, "_optional_components", ["vae"])
    edit_json(copy / "model_index.json", vae=[None, None])
    shutil.rmtree(copy / "vae")

    assert judged("coverage", copy).findings == ()


def test_a_foreign_class_is_one_finding(judged, copy):
    edit_json(copy / "model_index.json", vae=["my_code", "Vae"])

    assert [(f.code, f.component) for f in judged("coverage", copy).findings] == [("GM104", "vae")]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "invariant",
    ["seeded_sampling", "save_load_round_trip", "zero_lr_identity", "learning_moves"],
)
def test_no_other_check_passes_or_crashes_on_a_missing_component(judged, copy, healthy, invariant, part):
    edit_json(copy / "model_index.json", **{part: ...})

    verdict = judged(invariant, copy, healthy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert f"has no {part}" in verdict.reason


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("invariant", ["same_weights", "same_config"])
def test_a_comparison_does_not_crash_on_a_missing_component(judged, copy, healthy, invariant, part):
    edit_json(copy / "model_index.json", **{part: ...})

    verdict = judged(invariant, copy, healthy)

    assert verdict.reason is None or f"has no {part}" in verdict.reason


# --- what nobody reads ----------------------------------------------------------------------------------------------


def strays_of(verdict) -> list[tuple[str, str, str]]:
    return [(f.code, f.severity.value, f.location) for f in verdict.findings]


@LEVELS
@pytest.mark.parametrize(
    "name", ["pytorch_lora_weights.safetensors", "adapter_model.safetensors", "best.safetensors", "run.pt"]
)
def test_a_weights_file_beside_the_components_is_a_warning(judged, copy, name, level):
    save_file({"a": torch.ones(2)}, copy / name)

    verdict = judged("coverage", copy, level=level)

    assert strays_of(verdict) == [("GM106", "warning", name)]
    assert verdict.outcome is Outcome.PASSED
    if name.startswith(("pytorch_lora", "adapter")):
        assert "does not attach it" in verdict.findings[0].message
        assert "--genmodel-ckpt" in verdict.findings[0].action


@LEVELS
def test_a_folder_of_a_model_that_the_index_does_not_name_is_a_warning(judged, copy, level):
    shutil.copytree(copy / "transformer", copy / "transformer_ema")

    verdict = judged("coverage", copy, level=level)

    assert strays_of(verdict) == [("GM106", "warning", "transformer_ema")]


def test_several_strays_are_a_warning_each(judged, copy):
    shutil.copytree(copy / "transformer", copy / "transformer_ema")
    save_file({"a": torch.ones(2)}, copy / "best.safetensors")

    assert [location for _, _, location in strays_of(judged("coverage", copy))] == [
        "best.safetensors",
        "transformer_ema",
    ]


def test_what_is_no_result_is_no_stray(judged, copy):
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "notes.txt", "probe.json"):
        (copy / name).write_bytes(b"{}")
    (copy / "logs").mkdir()
    (copy / "samples").mkdir()
    (copy / "samples" / "config.json").write_text("{}")
    shutil.copytree(copy / "transformer", copy / ".cache" / "transformer")

    assert judged("coverage", copy).findings == ()


def test_strays_of_the_reference_are_not_the_candidates(judged, copy, healthy, tmp_path):
    save_file({"a": torch.ones(2)}, copy / "best.safetensors")
    candidate = shutil.copytree(healthy / "transformer", tmp_path / "run")

    assert judged("coverage", candidate, copy).findings == ()


def test_a_stray_in_a_trainers_folder_is_a_warning(judged, healthy, tmp_path):
    run = tmp_path / "run"
    for name in ("transformer", "transformer_best"):
        shutil.copytree(healthy / "transformer", run / name)

    assert strays_of(judged("coverage", run, healthy)) == [("GM106", "warning", "transformer_best")]


# --- a trainer's folder ---------------------------------------------------------------------------------------------


@pytest.fixture
def run(healthy, tmp_path) -> Path:
    """A trainer's folder: transformer, scheduler, tokenizer, and no model index."""
    for name in ("transformer", "scheduler", "tokenizer"):
        shutil.copytree(healthy / name, tmp_path / "run" / name)
    return tmp_path / "run"


def test_a_trainers_folder_is_whole_over_the_reference(judged, healthy, run):
    for invariant in ("coverage", "same_weights", "same_config", "seeded_sampling"):
        assert judged(invariant, run, healthy).outcome is Outcome.PASSED


def test_the_scheduler_that_was_saved_is_the_one_that_is_judged(judged, healthy, run):
    edit_json(run / "scheduler" / "scheduler_config.json", prediction_type="epsilon")

    findings = judged("same_config", run, healthy).findings

    assert ("GM401", "scheduler_config.json:prediction_type") in [(f.code, f.location) for f in findings]


def test_a_scheduler_of_another_class_is_read_by_its_own(judged, healthy, run):
    before = (healthy / "model_index.json").read_bytes()
    edit_json(run / "scheduler" / "scheduler_config.json", _class_name="CogVideoXDPMScheduler")

    findings = judged("same_config", run, healthy).findings

    assert ("GM401", "model_index.json:scheduler") in [(f.code, f.location) for f in findings]
    assert judged("seeded_sampling", run, healthy).outcome is Outcome.PASSED
    assert (healthy / "model_index.json").read_bytes() == before


def test_the_tokenizer_that_was_saved_is_the_one_that_is_judged(judged, healthy, run):
    for name in ("tokenizer.json", "spiece.model"):
        (run / "tokenizer" / name).unlink(missing_ok=True)

    [finding] = judged("coverage", run, healthy).findings

    assert (finding.code, finding.component) == ("GM107", "tokenizer")


def test_a_tokenizer_is_read_by_the_class_that_the_reference_names(judged, healthy, run):
    edit_json(run / "tokenizer" / "tokenizer_config.json", tokenizer_class="T5TokenizerFast")

    assert judged("coverage", run, healthy).findings == ()
