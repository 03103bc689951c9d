"""Which of the sets of weights in a trainer's output is its result."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.training.result import SeveralResultsError, check_choice, open_result

LORA = {
    f"transformer.transformer_blocks.0.attn1.to_q.lora_{side}.weight": torch.ones(2, 2) for side in ("A", "B")
}
PIPELINE, TRANSFORMER, FACTORS = "pipeline", "transformer", "lora"


@pytest.fixture
def output(healthy, tmp_path):
    """Lay out `{place: kind}` as a trainer's output."""

    def lay_out(**places):
        for place, kind in places["places"].items():
            target = tmp_path / "out" / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == FACTORS:
                target.parent.mkdir(parents=True, exist_ok=True)
                save_file(LORA, target)
            else:
                source = healthy if kind == PIPELINE else healthy / "transformer"
                shutil.copytree(source, target, dirs_exist_ok=True)
        return tmp_path / "out"

    return lay_out


def opened(folder, choice=None, steps=2):
    return open_result(folder, "run", choice=choice, steps=steps)


LORA_FILE = "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize(
    ("places", "where"),
    [
        ({".": PIPELINE}, "."),
        ({".": PIPELINE, "checkpoint-1": PIPELINE, "checkpoint-2": PIPELINE}, "."),
        ({LORA_FILE: FACTORS, f"checkpoint-1/{LORA_FILE}": FACTORS}, "."),
        ({"run-2024-05-01": PIPELINE}, "run-2024-05-01"),
        ({"run-1/checkpoint-1": PIPELINE, "run-1/final": PIPELINE}, "run-1/final"),
        ({"checkpoint-2": PIPELINE}, "checkpoint-2"),
        ({f"lora_weights/000002/{LORA_FILE}": FACTORS}, "lora_weights/000002"),
        ({"transformer": TRANSFORMER, "checkpoint-1/transformer": TRANSFORMER}, "."),
    ],
)
def test_final_result_is_taken_wherever_it_lies(output, places, where):
    folder = output(places=places)

    assert opened(folder).root == folder / where


@pytest.mark.parametrize(
    ("places", "labels"),
    [
        ({"checkpoint-1": PIPELINE, "checkpoint-2": PIPELINE}, ("checkpoint-1", "checkpoint-2")),
        ({"transformer": TRANSFORMER, LORA_FILE: FACTORS}, ("lora", "transformer")),
        ({".": PIPELINE, LORA_FILE: FACTORS}, (".", LORA_FILE)),
        ({"first.safetensors": FACTORS, "second.safetensors": FACTORS}, ("first", "second")),
        ({"run-1": PIPELINE, "run-2": PIPELINE}, ("run-1", "run-2")),
        ({"transformer": TRANSFORMER, "transformer_ema": TRANSFORMER}, ("ema", "raw")),
    ],
)
def test_several_results_are_listed_and_none_is_taken(output, places, labels):
    with pytest.raises(SeveralResultsError) as error:
        opened(output(places=places))

    assert tuple(sorted(error.value.labels)) == tuple(sorted(labels))


@pytest.mark.parametrize(
    ("choice", "where"),
    [
        ("checkpoint-{steps}", "checkpoint-2"),
        ("checkpoint-1", "checkpoint-1"),
        ("@latest", "checkpoint-2"),
        ("@1", "checkpoint-1"),
        ("checkpoint-1/transformer", "checkpoint-1/transformer"),
    ],
)
def test_choice_names_a_result(output, choice, where):
    folder = output(places={"checkpoint-1": PIPELINE, "checkpoint-2": PIPELINE})

    assert opened(folder, choice).root == folder / where


def test_steps_may_be_padded(output):
    folder = output(places={f"lora_weights/{step}/{LORA_FILE}": FACTORS for step in ("000001", "000002")})

    assert opened(folder, "lora_weights/{steps:06d}").root == folder / "lora_weights" / "000002"


def test_choice_that_is_not_there_says_what_is(output):
    folder = output(places={"checkpoint-1": PIPELINE, "checkpoint-2": PIPELINE})

    with pytest.raises(UnreadableCheckpointError, match="checkpoint-1, checkpoint-2"):
        opened(folder, "checkpoint-{steps}", steps=9)


@pytest.mark.parametrize(
    "text", ["", " ", "/tmp/out", "../out", "a/../../b", "checkpoint-{step}", "{lr}", "{"]
)
def test_choice_that_leads_elsewhere_is_refused(text):
    with pytest.raises(BadInputError, match="names no result"):
        check_choice(text)


@pytest.mark.parametrize("text", ["@latest", "checkpoint-{steps}", "a/{steps:06d}@ema", "last.safetensors"])
def test_choice_is_taken(text):
    assert check_choice(text) == text
