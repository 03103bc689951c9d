"""Figures of stored tensors: the same as a plain reading of the whole tensor gives, from any container."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pytest_genmodel.checkpoints import statistics as module
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.statistics import Statistics, statistics
from pytest_genmodel.checkpoints.weights import open_weights
from pytest_genmodel.tensors import blocks
from tests.tensors.strategies import EIGHT_BIT, EVERY, FLOATS, quick, shapes, tensors

STORED = [dtype for dtype in EVERY if dtype != torch.complex128]
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0)


def plainly(tensor: torch.Tensor) -> Statistics:
    """The figures by whole-tensor arithmetic in float64."""
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    values = values.to(torch.float64).reshape(-1)
    finite = values[values.isfinite()]
    known = finite.numel() > 0
    smallest, largest = (float(finite.min()), float(finite.max())) if known else (0.0, 0.0)
    exact = tensor.dtype in (torch.float32, torch.float64) and bool(
        ((values.to(torch.bfloat16).to(torch.float64) == values) | values.isnan()).all()
    )
    return Statistics(
        numel=values.numel(),
        nan=int(values.isnan().sum()),
        inf=int(values.isinf().sum()),
        zeros=int((values == 0).sum()),
        smallest=smallest,
        largest=largest,
        abs_max=max(abs(smallest), abs(largest)),
        mean=float(finite.mean()) if known else 0.0,
        std=float(finite.std(correction=0)) if known else 0.0,
        constant=values.numel() > 1 and bool((values == values[0]).all()),
        bf16_exact=exact,
        beyond_fp16=int((finite.abs() > 65504).sum()),
    )


def agree(found: Statistics, right: Statistics) -> bool:
    exact = ("numel", "nan", "inf", "zeros", "constant", "bf16_exact", "beyond_fp16")
    scale = right.abs_max or 1.0
    return all(getattr(found, name) == getattr(right, name) for name in exact) and all(
        math.isclose(getattr(found, name), getattr(right, name), rel_tol=1e-6, abs_tol=1e-6 * scale)
        for name in ("smallest", "largest", "abs_max", "mean", "std")
    )


@st.composite
def weights_with_oddities(draw: st.DrawFn) -> torch.Tensor:
    tensor = draw(tensors([*STORED, *FLOATS, *EIGHT_BIT], shapes(most=9)))
    if (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel():
        size = draw(st.sampled_from([1.0, 1.0, 1e-30, 1e30, 1e5]))
        tensor = (tensor.to(torch.complex128 if tensor.is_complex() else torch.float64) * size).to(
            tensor.dtype
        )
        flat = tensor.view(-1)
        for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=3)):
            flat[draw(st.integers(0, flat.numel() - 1))] = value
    if draw(st.booleans()) and tensor.dtype in (torch.float32, torch.float64):
        tensor = tensor.to(torch.bfloat16).to(tensor.dtype)
    return tensor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("statistics")


@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_figures_are_those_of_plain_arithmetic(folder, container, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 64)  # several blocks and tasks to a tensor

    @quick
    @given(st.lists(weights_with_oddities(), min_size=1, max_size=4))
    def check(drawn):
        held = {str(number): tensor for number, tensor in enumerate(drawn)}
        path = folder / f"m.{container}"
        save_file(held, path) if container == "safetensors" else torch.save(held, path)

        found = statistics(open_weights((path,)))

        assert found.keys() == held.keys()
        for name, tensor in held.items():
            assert agree(found[name], plainly(tensor)), (tensor, found[name], plainly(tensor))

    check()


def test_one_nan_or_infinity_does_not_spoil_the_rest(folder):
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    spoiled = torch.cat([values, torch.tensor([math.nan, math.inf, -math.inf])])
    save_file({"clean": values, "spoiled": spoiled}, folder / "odd.safetensors")

    found = statistics(open_weights((folder / "odd.safetensors",)))

    clean, spoiled = found["clean"], found["spoiled"]
    assert (spoiled.numel, spoiled.nan, spoiled.inf) == (10_003, 1, 2)
    assert (spoiled.smallest, spoiled.largest) == (clean.smallest, clean.largest)
    assert spoiled.mean == pytest.approx(clean.mean, abs=1e-7)
    assert spoiled.std == pytest.approx(clean.std, rel=1e-6)


def test_spread_of_values_far_from_zero_keeps_its_digits(folder):
    held = {
        "constant": torch.full((100_000,), 0.1),
        "narrow": 1000.0 + torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * 1e-2,
    }
    save_file(held, folder / "far.safetensors")

    found = statistics(open_weights((folder / "far.safetensors",)))

    assert found["constant"].constant
    assert found["constant"].std == 0.0
    assert found["narrow"].std == pytest.approx(float(held["narrow"].double().std(correction=0)), rel=1e-4)


def test_same_figures_in_any_number_of_threads(folder, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    held = {f"t{n}": torch.randn(50_000, generator=generator).to(torch.bfloat16) for n in range(5)}
    save_file(held, folder / "threads.safetensors")
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    weights, found = open_weights((folder / "threads.safetensors",)), []

    for threads in (1, 2, 5):
        monkeypatch.setattr(module, "THREADS", threads)
        found.append(statistics(weights))

    assert found[0] == found[1] == found[2]


def test_only_the_named_tensors_are_read_and_their_bytes_counted(folder):
    save_file({"a": torch.ones(300), "b": torch.ones(5)}, folder / "two.safetensors")
    told = []

    found = statistics(
        open_weights((folder / "two.safetensors",)), ["b"], lambda *report: told.append(report)
    )

    assert list(found) == ["b"]
    assert told[-1][1:] == (20, 20, "B")


@pytest.mark.parametrize(("content", "empty"), [(bytes(8), True), (b"\x11" * 8, False)])
def test_of_packed_floats_it_is_known_only_whether_they_are_zero(folder, content, empty):
    header = b'{"w":{"dtype":"F4","shape":[4,4],"data_offsets":[0,8]}}'
    path = folder / "packed.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)

    found = statistics(open_weights((path,)))["w"]

    assert (found.numel, found.zeros, found.constant) == (16, 16 if empty else 0, empty)
    assert (found.abs_max, found.std, found.nan) == (0.0, 0.0, 0)


def test_file_cut_short_while_it_is_read_is_damaged(folder):
    path = folder / "cut.safetensors"
    save_file({"a": torch.ones(300)}, path)
    weights = open_weights((path,))
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(DamagedFileError, match=r"cut\.safetensors at byte \d+: the file ended") as caught:
        statistics(weights)
    assert caught.value.damage is Damage.TRUNCATED
