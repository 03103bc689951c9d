"""Several processes of one run: whether they hold one model, whether they write one file, and their parts of it."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.training.observer import Observed, observe_optimizers, together
from tests.training.small_trainer import SAVE, SCRIPT, write

WHOLE, PART = (8, 4), (4, 4)


def rank(number, *weights, shape=WHOLE, saves=()):
    """What one of two processes saw; `weights` are the digests that each of its steps began with."""
    return Observed(
        rates=[(0.1,)] * len(weights),
        trace=[{"weights": told, "gradients": told} for told in weights],
        with_gradient=[True] * len(weights),
        finite_gradients=[True] * len(weights),
        started_from=[(shape, weights[0]), ((8,), "bias")] if weights else [],
        saves=dict.fromkeys(saves, True),
        rank=number,
        world=2,
    )


@pytest.mark.parametrize(
    ("seen", "apart", "shapes"),
    [
        ([rank(0, "a", "b"), rank(1, "a", "b")], None, []),
        ([rank(0, "a", "b"), rank(1, "a", "c")], 2, []),
        ([rank(0, "a", "b"), rank(1, "d", "c")], 1, [WHOLE]),
        ([rank(0, "a", shape=PART), rank(1, "b", shape=PART)], 1, [PART]),
        ([rank(0, "a"), rank(1, "b", shape=PART)], None, []),
        ([rank(None, "a"), rank(None, "b")], None, []),
        ([rank(0, "a"), rank(1)], None, []),
    ],
    ids=[
        "copies",
        "steps apart",
        "starts apart",
        "parts",
        "other models",
        "no ranks",
        "one that never steps",
    ],
)
def test_weights_of_side_by_side_processes_are_compared_step_by_step(seen, apart, shapes):
    merged = together([Observed.from_json(observed.to_json()) for observed in seen])

    assert (merged.apart, merged.apart_shapes) == (apart, shapes)


def test_file_that_two_ranks_wrote_is_told_and_one_of_each_is_not():
    merged = together([rank(0, "a", saves=["/out/w", "/out/0"]), rank(1, "a", saves=["/out/w", "/out/1"])])

    assert merged.shared_files == {"/out/w": 2}
    assert merged.processes == 2


def test_process_that_was_ended_within_a_step_does_not_break_the_reading():
    ended = rank(1, "a", "b")
    ended.with_gradient.append(False)
    ended.finite_gradients.append(True)
    ended.rates.append((0.1,))

    assert together([rank(0, "a", "b"), ended]).steps == 3


SIDE_BY_SIDE = "RANK={number} WORLD_SIZE=2 {command} & "
GRADIENT = "parameter.grad = torch.ones_like(parameter)"


@pytest.mark.parametrize("kind", ["copies, and the first is saved", "apart, and both are saved"])
def test_two_processes_must_keep_one_model_and_write_it_once(judged, healthy, tmp_path, kind):
    edits = [
        ("import shutil, sys, torch", "import os, shutil, sys, torch\nmain = os.environ['RANK'] == '0'"),
        ("if t.dtype == torch.float32", "if 'pos_embedding' not in n"),
    ]
    if kind.startswith("copies"):
        edits.append((SAVE, "\nmain and save(output)\n"))
    else:
        edits.append((GRADIENT, f"{GRADIENT} * (1 if main else -1)"))
        edits.append(
            (
                SAVE,
                "\nsave(output if main else output / 'own')\nsave_file(tensors, output / 'all.safetensors')\n",
            )
        )
    command = write(tmp_path, *edits, script=SCRIPT)
    both = "".join(SIDE_BY_SIDE.format(number=number, command=command) for number in (0, 1))
    text = both.replace('"', '\\"')

    verdict = judged("learning_moves", healthy, parameters={"trainer": f'sh -c "{text} wait"'})

    found = {finding.code: finding for finding in verdict.findings}
    assert verdict.measurements["processes"] == "2 of 2 were watched"
    if kind.startswith("copies"):
        assert (verdict.outcome, found) == (Outcome.PASSED, {})
        return
    assert verdict.outcome is Outcome.FAILED
    assert (found["GM718"].component, found["GM718"].location) == ("transformer", "step 2")
    assert (found["GM729"].severity, found["GM729"].location) == ("warning", "all.safetensors")


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield distributed
    distributed.destroy_process_group()


def test_parameters_that_several_processes_share_are_watched_by_their_own_part(group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.Linear(4, 8)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with observe_optimizers() as observed:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(2):
            model(torch.ones(2, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    assert (observed.steps, observed.moved, observed.kept, observed.learned) == (2, 2, 0, True)
    assert observed.connected
    assert observed.old_gradients == []
