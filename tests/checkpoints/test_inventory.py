"""A trainer's output folder: every set of weights in it, by its label, step and kind, and which of them is meant."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.checkpoint import Kind
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.inventory import inventory
from pytest_genmodel.checkpoints.saved import without_ema

LORA = "pytorch_lora_weights.safetensors"


def write_lora(folder: Path, name: str = LORA, rank: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    module = "transformer.transformer_blocks.0.attn1.to_q"
    shapes = {f"{module}.lora_A.weight": (rank, 8), f"{module}.lora_B.weight": (8, rank)}
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, folder / name)


def write_weights(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"proj_out.weight": torch.ones(4, 4), "proj_out.bias": torch.ones(4)}, file)


def write_state(folder: Path) -> None:
    """What a trainer keeps to go on: no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state": {}}, folder / "optimizer.bin")
    (folder / "random_states_0.pkl").write_bytes(b"\x80\x04.")


def labels(folder: Path) -> list[str]:
    return [one.label for one in inventory(folder).sets]


def final(folder: Path) -> str | None:
    found = inventory(folder).final
    return found.label if found else None


@pytest.fixture
def part(healthy):
    """Copy a component of the healthy pipeline to a place."""

    def copy(to: Path, name: str = "transformer") -> Path:
        return Path(shutil.copytree(healthy / name, to))

    return copy


# --- what lies where ------------------------------------------------------------------------------------------------


def test_the_example_trainer_of_diffusers_lora_at_the_top_and_steps_beside_it(tmp_path):
    write_lora(tmp_path)
    for step in (500, 1000, 90):
        write_lora(tmp_path / f"checkpoint-{step}")
        write_state(tmp_path / f"checkpoint-{step}")

    assert labels(tmp_path) == ["final", "checkpoint-90", "checkpoint-500", "checkpoint-1000"]
    assert [one.step for one in inventory(tmp_path).sets] == [None, 90, 500, 1000]
    assert final(tmp_path) == "final"


def test_raw_and_average_of_a_step_are_a_pair(part, tmp_path):
    for step in (100, 200):
        part(tmp_path / f"checkpoint-{step}" / "transformer")
        part(tmp_path / f"checkpoint-{step}" / "transformer_ema")
        write_state(tmp_path / f"checkpoint-{step}")

    found = inventory(tmp_path)

    assert labels(tmp_path) == [
        "checkpoint-100/raw",
        "checkpoint-100/ema",
        "checkpoint-200/raw",
        "checkpoint-200/ema",
    ]
    assert [(raw.label, ema.label) for raw, ema in found.pairs] == [
        ("checkpoint-100/raw", "checkpoint-100/ema"),
        ("checkpoint-200/raw", "checkpoint-200/ema"),
    ]
    assert found.final is None


def test_the_sets_of_a_pair_open_as_the_component_that_they_are(part, tmp_path):
    part(tmp_path / "transformer")
    part(tmp_path / "transformer_ema")
    [(raw, ema)] = inventory(tmp_path).pairs

    for one, folder in ((raw, "transformer"), (ema, "transformer_ema")):
        checkpoint = one.open("spec")
        assert checkpoint.kind is Kind.COMPONENTS
        assert list(checkpoint.components) == ["transformer"]
        assert checkpoint.components["transformer"].folder.name == folder
        assert len(checkpoint.components["transformer"].weights.tensors) == 65
        assert checkpoint.unread == (), "the other one was not forgotten, it was not asked for"


def test_what_diffusers_writes_as_an_average_is_one(healthy, tmp_path):
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.training_utils import EMAModel

    model = CogVideoXTransformer3DModel.from_pretrained(healthy / "transformer")
    model.save_pretrained(tmp_path / "transformer")
    average = EMAModel(model.parameters(), model_cls=CogVideoXTransformer3DModel, model_config=model.config)
    average.save_pretrained(str(tmp_path / "transformer_ema"))

    assert labels(tmp_path) == ["raw", "ema"]
    [(_, ema)] = inventory(tmp_path).pairs
    assert len(ema.open("spec").components["transformer"].weights.tensors) >= 64


def test_averages_of_several_components_are_one_set(part, tmp_path):
    for name in ("transformer", "vae"):
        part(tmp_path / name, name)
        part(tmp_path / f"{name}_ema", name)

    assert labels(tmp_path) == ["raw", "ema"]
    ema = inventory(tmp_path).find("ema", "run").open("run@ema")
    assert {name: one.folder.name for name, one in ema.components.items()} == {
        "transformer": "transformer_ema",
        "vae": "vae_ema",
    }


def test_a_pipeline_says_itself_what_it_means_and_its_average_can_be_named(copy, part):
    part(copy / "transformer_ema")

    assert labels(copy) == ["final", "ema"]
    assert final(copy) == "final"
    assert (
        inventory(copy).find("ema", "run").open("x").components["transformer"].folder.name
        == "transformer_ema"
    )


def test_iterations_of_sat_with_their_averages(tmp_path):
    for name in ("500", "1000", "1000-ema"):
        write_weights(tmp_path / name / "model.safetensors")
    (tmp_path / "latest").write_text("1000\n")

    found = inventory(tmp_path)

    assert labels(tmp_path) == ["500", "1000", "1000-ema"]
    assert [(raw.label, ema.label) for raw, ema in found.pairs] == [("1000", "1000-ema")]
    assert found.pointed == "1000"
    assert found.final is None, "raw and average lie side by side"


def test_the_trainers_own_pointer_names_the_result_where_there_is_one(tmp_path):
    for name in ("500", "1000"):
        write_weights(tmp_path / name / "model.safetensors")
    (tmp_path / "latest").write_text("500")

    assert final(tmp_path) == "500"


@pytest.mark.parametrize("text", ["", "../elsewhere", "2000", "a/b"])
def test_a_pointer_to_nothing_points_to_nothing(tmp_path, text):
    for name in ("500", "1000"):
        write_weights(tmp_path / name / "model.safetensors")
    (tmp_path / "latest").write_text(text)

    assert inventory(tmp_path).pointed is None
    assert final(tmp_path) is None


def test_the_output_of_finetrainers(part, tmp_path):
    for step in (100, 200):
        part(tmp_path / "model_weights" / f"{step:06d}" / "transformer")
        part(tmp_path / "model_weights" / f"{step:06d}" / "scheduler", "scheduler")
        write_lora(tmp_path / "lora_weights" / f"{step:06d}")
    write_state(tmp_path / "finetrainers_step_200")

    assert sorted(labels(tmp_path)) == [
        "lora_weights/000100",
        "lora_weights/000200",
        "model_weights/000100",
        "model_weights/000200",
    ]
    assert inventory(tmp_path).find("model_weights/latest", "x").label == "model_weights/000200"


def test_numbered_files_beside_the_last_one_are_steps(tmp_path):
    for name in ("last", "last-000002", "last-step00000500", "last_ema"):
        write_weights(tmp_path / f"{name}.safetensors")

    assert labels(tmp_path) == ["raw", "ema", "last-000002", "last-step00000500"]
    assert inventory(tmp_path).find("latest", "x").label == "last-step00000500"


def test_three_sets_in_one_folder_are_three(part, tmp_path):
    """Open-Sora-Plan issue 524: model, model_ema and pytorch_model of one step, and nobody knew which to take."""
    part(tmp_path / "checkpoint-10" / "model")
    part(tmp_path / "checkpoint-10" / "model_ema")
    write_weights(tmp_path / "checkpoint-10" / "pytorch_model.safetensors")

    assert labels(tmp_path) == [
        "checkpoint-10/pytorch_model",
        "checkpoint-10/model",
        "checkpoint-10/ema",
    ]


def test_a_file_and_a_folder_of_one_name_have_labels_of_their_own(part, tmp_path):
    part(tmp_path / "best")
    write_weights(tmp_path / "best.safetensors")

    assert labels(tmp_path) == ["best", "best#2"]
    assert {inventory(tmp_path).find(label, "x").path.name for label in labels(tmp_path)} == {
        "best",
        "best.safetensors",
    }


def test_what_is_no_set_is_not_listed(part, tmp_path):
    write_lora(tmp_path)
    write_state(tmp_path)
    write_state(tmp_path / "checkpoint-5")
    (tmp_path / "logs" / "1700000000").mkdir(parents=True)
    write_weights(tmp_path / ".cache" / "checkpoint-1" / "model.safetensors")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "CogVideoXTransformer3DModel"}')

    assert labels(tmp_path) == ["final"]


def test_shards_are_no_sets_of_their_own(tmp_path):
    for number in (1, 2):
        write_weights(tmp_path / f"model-0000{number}-of-00002.safetensors")

    assert labels(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_a_second_name_of_a_step_is_no_second_set(tmp_path):
    write_lora(tmp_path / "checkpoint-5")
    (tmp_path / "last").symlink_to("checkpoint-5")

    assert labels(tmp_path) == ["checkpoint-5"]


def test_a_folder_that_holds_itself_ends(tmp_path):
    write_lora(tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5" / "checkpoint-6").symlink_to(tmp_path)

    assert labels(tmp_path) == ["checkpoint-5"]


def test_a_broken_configuration_hides_no_other_set(part, tmp_path):
    write_lora(tmp_path / "checkpoint-5")
    (part(tmp_path / "checkpoint-6" / "transformer") / "config.json").write_text("{")

    assert labels(tmp_path) == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("transformer_ema", "transformer"),
        ("1000-ema", "1000"),
        ("ema", ""),
        ("EMA_model", "model"),
        ("ema_0.9999_100", "0.9999_100"),
        ("cinema", None),
        ("schema", None),
        ("model_emacs", None),
    ],
)
def test_the_mark_of_an_average(name, bare):
    assert without_ema(name) == bare


# --- which is meant -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(part, tmp_path) -> Path:
    for step in (100, 200):
        part(tmp_path / f"checkpoint-{step}" / "transformer")
    part(tmp_path / "checkpoint-200" / "transformer_ema")
    write_lora(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("which", "label"),
    [
        ("final", "final"),
        ("checkpoint-100", "checkpoint-100"),
        ("100", "checkpoint-100"),
        ("checkpoint-200/ema", "checkpoint-200/ema"),
        ("200/ema", "checkpoint-200/ema"),
        ("200/raw", "checkpoint-200/raw"),
        ("latest/raw", "checkpoint-200/raw"),
        ("ema", "checkpoint-200/ema"),
    ],
)
def test_a_set_can_be_named_in_the_ways_that_come_to_mind(run, which, label):
    assert inventory(run).find(which, "run").label == label


@pytest.mark.parametrize("which", ["checkpoint-200", "200", "latest", "raw"])
def test_a_name_that_several_sets_have_is_refused_with_the_names_of_each(run, which):
    with pytest.raises(UnreadableCheckpointError) as caught:
        inventory(run).find(which, "out/run")

    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"out/run@{which}: ")
    assert "sets of weights have this name: name one, as out/run@checkpoint-200/raw" in message


def test_an_unknown_name_is_refused_with_the_nearest(run):
    with pytest.raises(UnreadableCheckpointError) as caught:
        inventory(run).find("checkpoint-201", "out/run")

    message = str(caught.value)
    assert "no set of weights in out/run has this name" in message
    assert message.endswith("; did you mean out/run@checkpoint-100?")


@pytest.mark.parametrize("which", ["", "/", "//", "9" * 4000, "../x", "ema/ema", "latest/", "\x1b[2J"])
def test_any_text_is_refused_in_one_line(run, which):
    with pytest.raises(UnreadableCheckpointError) as caught:
        inventory(run).find(which, "run")
    assert "\n" not in str(caught.value)


def test_many_sets_are_not_all_named(tmp_path):
    for step in range(1, 40):
        write_lora(tmp_path / f"checkpoint-{step}")

    message = inventory(tmp_path).choice("run")

    assert "31 more" in message
    assert "as run@checkpoint-39 (" in message
