"""A trainer's output as a checkpoint: the final result by itself, any other set by its name, else one clear line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_genmodel.checkpoints.checkpoint import Kind
from pytest_genmodel.checkpoints.damage import DamagedFileError, UnreadableCheckpointError
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.pipelines.resolve import peek, resolve
from pytest_genmodel.session import labels
from tests.checkpoints.test_inventory import write_lora, write_state, write_weights
from tests.editing import TO_Q, edit_tensors


@pytest.fixture
def run(healthy, tmp_path) -> Path:
    """Two steps, an average beside the second, no final result."""
    out = tmp_path / "out" / "run-17"
    for step in (100, 200):
        shutil.copytree(healthy / "transformer", out / f"checkpoint-{step}" / "transformer")
        write_state(out / f"checkpoint-{step}")
    shutil.copytree(healthy / "transformer", out / "checkpoint-200" / "transformer_ema")
    return out


def refusal(path: Path, spec: str = "out/run-17") -> str:
    with pytest.raises(UnreadableCheckpointError) as caught:
        open_checkpoint(path, spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_saved_on_the_way_is_never_taken_for_the_result(run):
    message = refusal(run)

    assert message.startswith(
        "out/run-17: no final result lies here, only what was saved on the way: name one, as "
    )
    assert "out/run-17@checkpoint-200/raw" in message
    for label in ("checkpoint-100", "checkpoint-200/raw", "checkpoint-200/ema"):
        assert label in message


def test_a_final_lora_is_the_result_whatever_lies_below(run):
    write_lora(run)

    assert open_checkpoint(run, "out/run-17").kind is Kind.ADAPTER


def test_a_final_pipeline_is_the_result_whatever_lies_below(run, healthy):
    shutil.copytree(healthy, run, dirs_exist_ok=True)

    assert open_checkpoint(run, "out/run-17").kind is Kind.PIPELINE


def test_a_single_file_at_the_top_is_the_result(run):
    write_weights(run / "model.safetensors")

    checkpoint = open_checkpoint(run, "out/run-17")

    assert checkpoint.kind is Kind.WEIGHTS
    assert checkpoint.spec == "out/run-17"


def test_raw_weights_beside_their_average_are_for_the_user_to_settle(run):
    for name in ("transformer", "transformer_ema"):
        shutil.copytree(run / "checkpoint-100" / "transformer", run / name)

    message = refusal(run)

    assert "raw weights and their running average (EMA) lie side by side" in message
    assert "raw, ema, checkpoint-100" in message


def test_a_step_that_holds_both_says_so_too(run):
    assert "raw weights and their running average (EMA)" in refusal(run / "checkpoint-200", "checkpoint-200")


def test_an_average_beside_a_lora_is_for_the_user_to_settle(tmp_path):
    write_lora(tmp_path)
    write_lora(tmp_path / "ema")

    message = refusal(tmp_path)

    assert "running average (EMA)" in message
    assert "(there are raw, ema)" in message


def test_several_files_at_the_top_are_for_the_user_to_settle(tmp_path):
    for name in ("best", "worst", "other"):
        write_weights(tmp_path / f"{name}.safetensors")

    assert "3 sets of weights lie here, and nothing says which is meant" in refusal(tmp_path)


def test_what_lies_beside_a_named_component_is_a_stray_and_no_second_result(run, healthy):
    shutil.copytree(healthy / "transformer", run / "transformer")
    shutil.copytree(healthy / "transformer", run / "transformer_best")

    checkpoint = open_checkpoint(run, "out/run-17")

    assert (list(checkpoint.components), [path.name for path in checkpoint.unread]) == (
        ["transformer"],
        ["transformer_best"],
    )


@pytest.mark.parametrize(
    ("which", "folder"),
    [
        ("checkpoint-100", "transformer"),
        ("100", "transformer"),
        ("latest/ema", "transformer_ema"),
        ("checkpoint-200/raw", "transformer"),
    ],
)
def test_a_spec_names_one_of_the_sets(run, tmp_path, which, folder):
    spec = f"{run}@{which}"

    for checkpoint in (resolve(spec, tmp_path / "work"), peek(spec)):
        assert checkpoint.spec == spec
        assert checkpoint.components["transformer"].folder.name == folder


def test_a_path_with_an_at_sign_wins(healthy, tmp_path, monkeypatch):
    shutil.copytree(healthy, tmp_path / "run@ema")
    monkeypatch.chdir(tmp_path)

    assert resolve("run@ema", tmp_path / "work").kind is Kind.PIPELINE
    assert labels(("run@ema",)) == ("run@ema",)


def test_a_set_below_a_path_with_an_at_sign_can_be_named(run, tmp_path):
    odd = run.rename(tmp_path / "a@b")

    assert resolve(f"{odd}@checkpoint-100", tmp_path / "work").kind is Kind.COMPONENTS


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("{run}@", "nothing stands behind the @"),
        ("{run}@checkpoint-300", "has this name"),
        ("{run}/no@latest", "no such file or folder"),
        ("{run}/checkpoint-100/optimizer.bin@ema", "no set of weights lies in"),
        ("@latest", "no such file or folder"),
        ("@", "no such file or folder"),
    ],
)
def test_what_is_wrong_with_a_name_is_one_line(run, tmp_path, spec, what):
    for ask in (peek, lambda spec: resolve(spec, tmp_path / "work")):
        with pytest.raises(UnreadableCheckpointError) as caught:
            ask(spec.format(run=run))
        assert what in str(caught.value)
        assert "\n" not in str(caught.value)


def test_labels_say_which_set_and_carry_no_path(run):
    specs = (f"{run}@checkpoint-100", f"{run}@checkpoint-200/ema", "tiny:cogvideox-i2v", "owner/name@main")

    assert labels(specs) == (
        "run-17@checkpoint-100",
        "run-17@checkpoint-200/ema",
        "tiny:cogvideox-i2v",
        "name@main",
    )


def test_a_damaged_component_is_damage_and_not_a_choice(run):
    only = run / "checkpoint-100"
    (only / "transformer" / "config.json").write_text("{")

    with pytest.raises(DamagedFileError):
        open_checkpoint(only, "run")


def test_raw_and_average_are_judged_each_for_itself(judged, run, healthy):
    edit_tensors(
        run / "checkpoint-200" / "transformer_ema" / "diffusion_pytorch_model.safetensors",
        lambda tensors: {**tensors, TO_Q: tensors[TO_Q] * 1.5},
    )

    raw = judged("same_weights", f"{run}@200/raw", healthy, expect="identical")
    average = judged("same_weights", f"{run}@200/ema", healthy, expect="identical")

    assert (raw.outcome.value, raw.findings) == ("passed", ())
    assert [finding.location for finding in average.findings] == [TO_Q]


def test_the_reference_may_be_a_set_too(judged, run, healthy):
    shutil.copytree(healthy, run / "checkpoint-300")

    verdict = judged("same_weights", run / "checkpoint-100", f"{run}@latest", expect="identical")

    assert (verdict.outcome.value, verdict.findings) == ("passed", ())


def test_what_accelerate_saves_can_be_named(tmp_path):
    """The real writer: `save_state` at each step, as the example trainers call it."""
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(torch.nn.Linear(4, 4))
    for step in (10, 20):
        accelerator.save_state(str(tmp_path / "out" / f"checkpoint-{step}"))

    checkpoint = resolve(f"{tmp_path / 'out'}@latest", tmp_path / "work")

    assert checkpoint.root.is_relative_to(tmp_path / "out" / "checkpoint-20")
    [component] = checkpoint.components.values()
    assert set(component.weights.tensors) == {name for name, _ in model.named_parameters()}
