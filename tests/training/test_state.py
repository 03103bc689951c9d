"""The training state: written and read back by the built-in trainers, and read as files whoever wrote it."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.training.state import load_state, save_state
from pytest_genmodel.training.state_files import (
    AVERAGE,
    MOMENTS,
    RANDOM,
    SCHEDULE,
    STEP,
    WEIGHTS,
    read_state_files,
)
from pytest_genmodel.training.trace import side_by_side, trace_of


def made(seed=0):
    torch.manual_seed(seed)
    parameters = {"a": torch.nn.Parameter(torch.randn(3)), "b": torch.nn.Parameter(torch.randn(2, 2))}
    return (
        parameters,
        torch.optim.AdamW(list(parameters.values()), lr=1e-3),
        torch.Generator().manual_seed(seed),
    )


def step(parameters, optimizer):
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_state_comes_back_whole(tmp_path):
    ours, theirs = made(0), made(1)
    step(ours[0], ours[1])
    folder = save_state(tmp_path, 7, *ours)

    assert load_state(folder, *theirs) == 7

    digests = [trace_of(optimizer, ["x", "y"]) for _, optimizer, _ in (ours, theirs)]
    assert digests[0]["moments"] == digests[1]["moments"]
    assert digests[0]["counts"] == digests[1]["counts"]
    assert torch.equal(ours[0]["b"], theirs[0]["b"])
    assert torch.equal(ours[2].get_state(), theirs[2].get_state())


def test_state_that_is_not_there_or_of_others_is_refused(tmp_path):
    parameters, optimizer, generator = made()
    folder = save_state(tmp_path, 1, parameters, optimizer, generator)

    with pytest.raises(BadInputError, match=r"holds no training_state\.pt"):
        load_state(tmp_path, parameters, optimizer, generator)
    with pytest.raises(BadInputError, match="of other parameters than are trained: b"):
        load_state(folder, {"a": parameters["a"]}, optimizer, generator)


def test_trace_tells_moments_counts_and_gradients_apart():
    parameters, optimizer, _ = made()
    fresh = trace_of(optimizer, ["x"])
    step(parameters, optimizer)
    before = trace_of(optimizer, ["x"])
    optimizer.state[parameters["a"]]["step"] += 1
    counted = trace_of(optimizer, ["x"])
    parameters["b"].grad = parameters["b"].grad * 2
    torch.rand(1)
    after = trace_of(optimizer, ["x"])

    assert [kind for kind in fresh if fresh[kind] != before[kind]] == ["moments", "counts", "gradients"]
    assert [kind for kind in before if before[kind] != counted[kind]] == ["counts"]
    assert [kind for kind in before if counted[kind] != after[kind]] == ["gradients", "random"]


def test_trace_of_several_processes_does_not_depend_on_their_order():
    _, optimizer, _ = made()
    one, other = trace_of(optimizer, ["x"]), trace_of(optimizer, ["y"])

    assert side_by_side([one, other]) == side_by_side([other, one])
    assert side_by_side([one]) == one


def test_values_of_a_saved_state_are_sorted_by_what_they_are_for(tmp_path):
    parameters, optimizer, _ = made()
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    step(parameters, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")
    torch.save(schedule.state_dict(), tmp_path / "scheduler.bin")
    torch.save(dict(parameters), tmp_path / "pytorch_model.bin")
    torch.save({"decay": 0.9, "shadow_params": [torch.zeros(2)]}, tmp_path / "averaged.pt")
    states = {"random_state": random.getstate(), "numpy_random_seed": np.random.get_state()}
    torch.save(states, tmp_path / "random_states_0.pkl")
    (tmp_path / "trainer_state.json").write_text(json.dumps({"step": 1, "loss": 0.5}))
    (tmp_path / "notes.pkl").write_bytes(b"nothing of torch's")

    state = read_state_files(tmp_path)

    kinds = {name: state.kinds[name] for name in state.kinds}
    assert kinds["optimizer.bin:state.0.exp_avg"] == MOMENTS
    assert kinds["optimizer.bin:param_groups.0.lr"] == SCHEDULE
    assert kinds["scheduler.bin:last_epoch"] == SCHEDULE
    assert kinds["pytorch_model.bin:a"] == WEIGHTS
    assert kinds["averaged.pt:shadow_params.0"] == AVERAGE
    assert kinds["trainer_state.json:step"] == STEP
    assert "trainer_state.json:loss" not in kinds
    assert {kind for name, kind in kinds.items() if name.startswith("random_states_0")} == {RANDOM}
    assert state.unread == ["notes.pkl"]


def test_states_differ_by_what_differs(tmp_path):
    for name, seed, number in (("one", 0, 1), ("other", 0, 2), ("third", 1, 1)):
        parameters, optimizer, generator = made(seed)
        save_state(tmp_path / name, number, parameters, optimizer, generator)
    one, other, third = (
        read_state_files(next((tmp_path / name).iterdir())) for name in ("one", "other", "third")
    )

    assert one.differing(one) == {}
    assert one.differing(other) == {STEP: ["training_state.pt:step"]}
    assert set(one.differing(third)) == {WEIGHTS, RANDOM}
