"""What a run's own files say of its optimizer, without any process watched."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from pytest_genmodel.training.evidence import read_written_state

ZERO = Path(__file__).parents[1] / "checkpoints" / "data" / "zero"


def accelerate_state(folder, *, lr, steps=2, gradient=1.0):
    """What accelerate itself writes after `steps` steps."""
    accelerator = Accelerator(cpu=True)
    layer = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    layer, optimizer, schedule = accelerator.prepare(layer, optimizer, schedule)
    for _ in range(steps):
        accelerator.backward((layer(torch.ones(1, 4)) * gradient).sum())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    accelerator.save_state(str(folder))


def test_state_of_accelerate_proves_rate_steps_and_moments(tmp_path):
    accelerate_state(tmp_path / "checkpoint-2", lr=0.0)

    state = read_written_state(tmp_path)

    assert state.files == ("checkpoint-2/optimizer.bin", "checkpoint-2/scheduler.bin")
    assert (state.steps, {rate for _, rate in state.rates}, state.has_moments) == (2, {0.0}, True)
    assert state.proves_steps
    assert not state.unread


def test_another_rate_is_seen_with_its_file(tmp_path):
    accelerate_state(tmp_path / "checkpoint-2", lr=1e-4)

    assert ("checkpoint-2/optimizer.bin", 1e-4) in read_written_state(tmp_path).rates


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"gradient": 0.0}])
def test_state_without_steps_or_gradients_proves_nothing(tmp_path, wrong):
    accelerate_state(tmp_path / "checkpoint-2", lr=0.0, **wrong)

    assert not read_written_state(tmp_path).proves_steps


@pytest.mark.parametrize("folder", sorted(path.name for path in ZERO.iterdir() if path.is_dir()))
def test_state_that_deepspeed_has_written_is_read(folder):
    state = read_written_state(ZERO / folder)

    assert {rate for _, rate in state.rates} == {0.01}
    assert state.steps >= 1
    assert state.proves_steps
    assert not state.unread


def test_trainer_state_of_transformers_is_read(tmp_path):
    log = [
        {"learning_rate": 0.0, "loss": 1.0, "step": 1},
        {"learning_rate": 2e-5, "step": 2},
        {"train_loss": 1.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 2, "log_history": log}))

    state = read_written_state(tmp_path)

    assert (state.steps, [rate for _, rate in state.rates]) == (2, [0.0, 2e-5])
    assert not state.proves_steps


def test_files_from_before_the_run_are_passed_over(tmp_path):
    accelerate_state(tmp_path / "checkpoint-2", lr=0.0)
    file = tmp_path / "checkpoint-2" / "optimizer.bin"

    assert read_written_state(tmp_path, file.stat().st_mtime_ns + 10**12) is None


def test_nothing_is_said_where_nothing_lies(tmp_path):
    assert read_written_state(tmp_path) is None


class Evil:
    def __reduce__(self):
        return (eval, ("__import__('os').system('true')",))


@pytest.mark.parametrize(
    "write",
    [
        lambda file: torch.save({"state": Evil()}, file),
        lambda file: file.write_bytes(pickle.dumps(Evil())),
        lambda file: file.write_bytes(b"PK\x03\x04 cut short"),
        lambda file: file.write_bytes(b""),
    ],
)
def test_hostile_and_damaged_files_are_named_and_not_read(tmp_path, write):
    write(tmp_path / "optimizer.bin")

    state = read_written_state(tmp_path)

    assert list(state.unread) == ["optimizer.bin"]
    assert not state.proves_steps


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"global_step": "many", "log_history": 3}', '{"log_history": [1]}']
)
def test_odd_json_proves_nothing(tmp_path, text):
    (tmp_path / "trainer_state.json").write_text(text)

    state = read_written_state(tmp_path)

    assert state is None or not state.proves_steps
