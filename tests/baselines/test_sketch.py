"""The sketch: linear, the same in blocks and threads, and as near to the exact distance as it says."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.baselines import sketch as sketching
from pytest_genmodel.baselines.sketch import BLOCK, FLOOR, SIZE, cosine, distance, error, facts, sketch
from pytest_genmodel.checkpoints.pickles import PickledWeights
from pytest_genmodel.checkpoints.weights import SafetensorsWeights

ROWS, COLUMNS = 768, 1024
"""Three blocks; a projection of a real model has this shape."""


def generator(seed):
    return torch.Generator().manual_seed(seed)


def at(places, value=1e-2):
    delta = torch.zeros(ROWS, COLUMNS)
    delta.view(-1)[places] = value
    return delta


CHANGES = {
    "dense": lambda g, w: 1e-3 * torch.randn(ROWS, COLUMNS, generator=g),
    "low rank": lambda g, w: 1e-3 * torch.randn(ROWS, 4, generator=g) @ torch.randn(4, COLUMNS, generator=g),
    "sparse": lambda g, w: at(torch.randint(ROWS * COLUMNS, (800,), generator=g)),
    "one column": lambda g, w: at(
        torch.arange(ROWS) * COLUMNS + int(torch.randint(COLUMNS, (), generator=g))
    ),
    "one row": lambda g, w: at(torch.arange(COLUMNS) + COLUMNS * int(torch.randint(ROWS, (), generator=g))),
    "a constant for each column": lambda g, w: 1e-3 * torch.randn(COLUMNS, generator=g).expand(ROWS, COLUMNS),
    "bfloat16": lambda g, w: w.bfloat16().float() - w,
}


@pytest.mark.parametrize("kind", CHANGES)
def test_the_drift_is_as_near_to_the_exact_one_as_the_bound_says(kind):
    low, high = error()
    ratios = []
    for seed in range(12):
        g = generator(seed)
        weight = torch.randn(ROWS, COLUMNS, generator=g)
        moved = weight + CHANGES[kind](g, weight)
        exact = float((moved.double() - weight.double()).norm())
        ratios.append(distance(sketch(moved), sketch(weight)) / exact)

    outside = [ratio for ratio in ratios if not 1 - low <= ratio <= 1 + high]
    squares = torch.tensor(ratios).double().square()

    assert not outside
    # The mean of 12 squares of relative deviation sqrt(2 / SIZE): four standard deviations.
    assert abs(float(squares.mean()) - 1) < 4 * sqrt(2 / SIZE / 12)


@pytest.mark.parametrize(
    "places",
    [
        torch.randint(2 * BLOCK, (400,), generator=generator(1)),
        torch.arange(400) * SIZE,
        torch.arange(400) * 1024 + 7,
    ],
    ids=["anywhere", "one column of 512", "one column of 1024"],
)
def test_two_values_share_a_place_no_more_often_than_chance(places):
    """What the bound rests on, and what a naive projection breaks for a column of a matrix."""
    seen, signs = [], 0.0
    for place in places.tolist():
        one = torch.zeros(2 * BLOCK)
        one[place] = 1.0
        row = sketch(one)
        assert int(row.count_nonzero()) == 1
        seen.append(int(row.abs().argmax()))
        signs += float(row.sum())
    met = sum(seen.count(place) * (seen.count(place) - 1) for place in set(seen)) / 2
    expected = 400 * 399 / 2 / SIZE

    assert abs(met - expected) < 5 * sqrt(expected)
    assert abs(signs) < 5 * sqrt(400)


def test_it_is_linear_so_a_multiple_is_recognised_exactly():
    weight = torch.randn(ROWS, COLUMNS, generator=generator(0))
    row = sketch(weight)

    assert distance(sketch(0.75 * weight), 0.75 * row) < FLOOR * float(row.norm())
    assert cosine(sketch(-2.0 * weight), row) == pytest.approx(-1.0, abs=1e-6)
    other = torch.randn(ROWS, COLUMNS, generator=generator(1))
    assert abs(cosine(sketch(other), row) or 1.0) < 4 / sqrt(SIZE)
    assert cosine(torch.zeros(SIZE), row) is None


def test_one_value_is_seen_exactly_wherever_it_is():
    weight = torch.randn(ROWS, COLUMNS, generator=generator(0))
    for place in (0, BLOCK - 1, BLOCK, ROWS * COLUMNS - 1):
        moved = weight.clone()
        moved.view(-1)[place] += 1.0
        assert distance(sketch(moved), sketch(weight)) == pytest.approx(1.0, rel=1e-4)


def test_a_short_tensor_is_kept_as_it_is():
    values = torch.arange(SIZE, dtype=torch.bfloat16)
    assert torch.equal(sketch(values), values.float())
    assert sketch(torch.empty(0, 4)).count_nonzero() == 0
    assert distance(sketch(torch.tensor(3)), sketch(torch.tensor(5))) == 2.0


MANY = {
    "large": torch.randn(3, 700, 1000, generator=generator(0)),
    "half": torch.randn(600, 500, generator=generator(1)).half(),
    "bfloat16": torch.randn(9 * BLOCK + 5, generator=generator(2)).bfloat16(),
    "complex": torch.randn(400, 700, generator=generator(3), dtype=torch.complex64),
    "short": torch.randn(7, generator=generator(4)),
    "whole": torch.arange(2000),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
}


@pytest.mark.parametrize("container", ["safetensors", "pickle"])
def test_read_from_files_it_is_the_same_as_in_memory(tmp_path, container):
    if container == "safetensors":
        save_file(MANY, tmp_path / "w.safetensors")
        weights = SafetensorsWeights((tmp_path / "w.safetensors",))
    else:
        torch.save({**MANY, "half": MANY["half"].T.contiguous().T}, tmp_path / "w.bin")
        weights = PickledWeights((tmp_path / "w.bin",))

    found = facts(weights)

    assert found.keys() == MANY.keys()
    for name, tensor in MANY.items():
        assert torch.equal(found[name].row, sketch(tensor)), name
        wide = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        assert found[name].norm == pytest.approx(float(wide.double().norm()), rel=3e-5)
        assert found[name].statistics.numel == wide.numel()


def test_any_number_of_threads_gives_the_same_bits(tmp_path, monkeypatch):
    save_file(MANY, tmp_path / "w.safetensors")
    weights = SafetensorsWeights((tmp_path / "w.safetensors",))
    two = facts(weights)
    monkeypatch.setattr(sketching, "THREADS", 1)
    monkeypatch.setattr(sketching, "BLOCKS_OF_TASK", 32)
    one = facts(weights, ["large", "bfloat16"])

    assert one.keys() == {"large", "bfloat16"}
    for name in one:
        assert torch.equal(one[name].row, two[name].row)


def test_nan_shows_in_the_figures():
    weight = torch.randn(ROWS, COLUMNS, generator=generator(0))
    weight[3, 4] = float("nan")
    assert bool(sketch(weight).isnan().any())


def test_the_projection_is_part_of_the_format():
    """A baseline of last year is compared with a sketch of today: these numbers must not change."""
    row = sketch(torch.arange(BLOCK + 1000, dtype=torch.float32) % 97)
    assert row[:6].tolist() == [2181.0, -618.0, -677.0, -1280.0, 1163.0, 713.0]
