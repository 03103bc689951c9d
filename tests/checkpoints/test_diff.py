"""Two weight sets compared: verdicts and figures as plain whole-tensor arithmetic gives them, from any container."""

from __future__ import annotations

import itertools
import math
import struct
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pytest_genmodel.checkpoints import same_bytes, values
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import compare_components
from pytest_genmodel.checkpoints.spans import Span
from pytest_genmodel.checkpoints.weight_set import StoredTensor, WeightSet, dtype_name
from pytest_genmodel.checkpoints.weights import open_weights
from pytest_genmodel.tensors import blocks
from tests.tensors.strategies import EIGHT_BIT, EVERY, FLOATS, draw, quick, shapes

STORED = [dtype for dtype in EVERY if dtype != torch.complex128]
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0)


# A slow, plain oracle ---------------------------------------------------------------------------------


@dataclass
class Right:
    """What is true of one pair."""

    kind: str  # equal, rounded, changed
    finite: bool
    figures: dict[str, float] = field(default_factory=dict)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).reshape(-1)


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """By value, NaN equal to NaN; integers of one dtype exactly."""
    if first.dtype == second.dtype and not (first.is_floating_point() or first.is_complex()):
        return torch.equal(first, second)
    x, y = wide(first), wide(second)
    return bool(((x == y) | (torch.isnan(x) & torch.isnan(y))).all())


def plainly(ours: torch.Tensor, theirs: torch.Tensor) -> Right:
    x, y = wide(ours), wide(theirs)
    finite = bool(torch.isfinite(x).all())
    if ours.shape != theirs.shape:
        return Right("changed", finite)
    if same(ours, theirs):
        return Right("equal", finite)
    real = not (ours.is_complex() or theirs.is_complex())
    if real and ours.dtype != theirs.dtype and same(ours, theirs.to(ours.dtype)):
        return Right("rounded", finite)
    comparable = torch.isfinite(x) & torch.isfinite(y)
    matched = (x == y) | (torch.isnan(x) & torch.isnan(y))
    if ours.dtype == theirs.dtype and real and not ours.is_floating_point():
        matched = (ours == theirs).reshape(-1)
    a, b = x[comparable], y[comparable]
    distance, size = (a - b).abs(), b.abs()
    nonzero = size > 0
    norm_a, norm_b, norm_d = (float(side.abs().pow(2).sum().sqrt()) for side in (a, b, a - b))
    return Right(
        "changed",
        finite,
        {
            "numel": x.numel(),
            "differing": int((~matched).sum()),
            "max_abs": float(distance.max()) if distance.numel() else 0.0,
            "max_rel": float((distance / size)[nonzero].max()) if nonzero.any() else 0.0,
            "relative_difference": norm_d / norm_b if norm_b else (math.inf if norm_d else 0.0),
            "relative_norm_change": abs(norm_a - norm_b) / norm_b
            if norm_b
            else (math.inf if norm_d else 0.0),
            "nan": (int(torch.isnan(x).sum()), int(torch.isnan(y).sum())),
            "inf": (int(torch.isinf(x).sum()), int(torch.isinf(y).sum())),
        },
    )


def check_against(right: Right, difference, name: str) -> None:
    kinds = {
        "changed": name in difference.changed,
        "rounded": name in difference.rounded,
        "equal": name not in difference.changed and name not in difference.rounded,
    }
    assert kinds[right.kind], (right.kind, kinds)
    if right.kind != "equal":  # of equal bytes, nothing is looked at
        assert (name not in difference.not_finite) == right.finite
    if not right.figures:
        return
    found = difference.changed[name]
    for figure in ("numel", "differing"):
        assert getattr(found, figure) == right.figures[figure], figure
    for figure in ("max_abs", "max_rel", "relative_difference"):
        assert math.isclose(getattr(found, figure), right.figures[figure], rel_tol=3e-6), figure
    assert math.isclose(
        found.relative_norm_change, right.figures["relative_norm_change"], rel_tol=1e-4, abs_tol=1e-6
    )
    assert tuple(side.nan for side in found.nonfinite) == right.figures["nan"]
    assert tuple(side.inf for side in found.nonfinite) == right.figures["inf"]
    assert (found.problem == "nonfinite") <= (
        not right.finite or right.figures["nan"][1] + right.figures["inf"][1] > 0
    )


@st.composite
def pairs(build: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors that are equal, nearly so, casts of each other, or something else."""
    shape = build(shapes(most=9))
    theirs = draw(
        shape, build(st.sampled_from([*STORED, *FLOATS, *FLOATS, *EIGHT_BIT])), build(st.integers(0, 99))
    )
    floating = theirs.is_floating_point()
    if floating and theirs.numel():
        scale = build(st.sampled_from([1.0, 1.0, 1.0, 1e-30, 1e30, 0.0]))
        theirs = (theirs.to(torch.float64) * scale).to(theirs.dtype)
        put_specials(build, theirs)
    ours = theirs.clone()
    how = build(st.sampled_from(["same", "cast", "few", "noise", "other", "signs", "shape", "specials"]))
    if how == "cast" and not theirs.is_complex():
        ours = theirs.to(
            build(
                st.sampled_from([*FLOATS, torch.int32, torch.uint8] if floating else [torch.int64, *FLOATS])
            )
        )
    elif how == "few" and theirs.numel():
        flat = ours.view(-1)
        flat[build(st.integers(0, flat.numel() - 1))] = 3
    elif how == "noise" and floating:
        ours = (theirs.to(torch.float64) * (1 + 1e-3 * torch.randn(shape))).to(theirs.dtype)
    elif how == "other":
        ours = draw(shape, build(st.sampled_from(STORED)), build(st.integers(0, 99)))
    elif how == "signs" and floating:
        ours = (theirs.to(torch.float64).where(theirs.to(torch.float64) != 0, -0.0)).to(theirs.dtype)
    elif how == "shape":
        ours = draw((*shape, 2), theirs.dtype, 0)
    elif how == "specials" and floating and theirs.numel():
        put_specials(build, ours)
    if ours.dim() == 2 and build(st.booleans()):
        ours = ours.t().contiguous().t()  # a pickle keeps the strides
    return ours, theirs


def put_specials(build: st.DrawFn, tensor: torch.Tensor) -> None:
    flat = tensor.view(-1)
    for value in build(st.lists(st.sampled_from(SPECIAL), max_size=3)):
        flat[build(st.integers(0, flat.numel() - 1))] = value


def sensible(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Casts of NaN, Inf and large numbers to integers are undefined, and those of complex numbers to real ones."""
    if ours.is_complex() != theirs.is_complex():
        return False
    return (
        ours.dtype == theirs.dtype
        or ours.is_floating_point()
        or not theirs.is_floating_point()
        or bool((theirs.to(torch.float64).abs() < 100).all())
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("diff")


class Held(WeightSet):
    """Tensors that lie nowhere in a file as they are, so that only reading gives them."""

    def __init__(self, path, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.files, self.metadata = (path,), {}
        self.tensors = {
            name: StoredTensor(name, dtype_name(tensor.dtype), tuple(tensor.shape), path)
            for name, tensor in tensors.items()
        }
        self._tensors = tensors

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def store(path, tensors):
    if path.suffix == ".held":
        return of_weights(Held(path, tensors))
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return component(path)


def component(path) -> Component:
    return Component("transformer", path.parent, "diffusers", "Transformer", weights_file=path)


def of_weights(weights: WeightSet) -> Component:
    return Component(
        "transformer", weights.files[0].parent, "diffusers", "Transformer", source=lambda: weights
    )


@pytest.mark.parametrize(
    "containers", [("safetensors",) * 2, ("bin", "held"), ("held", "safetensors"), ("safetensors", "bin")]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_verdicts_and_figures_are_those_of_plain_arithmetic(folder, containers, threads, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 64)
    monkeypatch.setattr(same_bytes, "BUFFER", 32)
    monkeypatch.setattr(values, "THREADS", threads)

    @quick
    @given(st.lists(pairs().filter(lambda pair: sensible(*pair)), min_size=1, max_size=4))
    def check(drawn):
        ours, theirs = ({f"t{n}": pair[side] for n, pair in enumerate(drawn)} for side in (0, 1))
        told = []

        difference = compare_components(
            store(folder / f"ours.{containers[0]}", ours),
            store(folder / f"theirs.{containers[1]}", theirs),
            progress=lambda *report: told.append(report),
        )

        assert difference.compared == len(drawn)
        for name in ours:
            check_against(plainly(ours[name], theirs[name]), difference, name)
        size = sum(tensor.numel() * tensor.itemsize for tensor in ours.values())
        assert told[-1] == ("comparing transformer", size, size, "B")
        assert all(done <= total for _, done, total, _ in told)

    check()


def test_bytes_that_differ_late_are_found_and_figures_span_the_whole_tensor(folder, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    monkeypatch.setattr(same_bytes, "BUFFER", 1000)
    monkeypatch.setattr(same_bytes, "TASK", 8000)
    theirs = draw((40_000,), torch.float32, 0)
    ours = theirs.clone()
    ours[33_333] += 1.0

    difference = compare_components(
        store(folder / "late.safetensors", {"w": ours}), store(folder / "early.safetensors", {"w": theirs})
    )

    found = difference.changed["w"]
    assert (found.differing, found.numel) == (1, 40_000)
    assert found.relative_difference == pytest.approx(1.0 / float(theirs.double().norm()), rel=1e-6)


class InPieces(WeightSet):
    """Tensors whose bytes lie in several places, as those of a view that concatenates rows do."""

    def __init__(self, source: WeightSet, cuts: dict[str, list[int]]) -> None:
        super().__init__()
        self.files, self.metadata, self.tensors = source.files, {}, source.tensors
        self._source, self._cuts = source, cuts

    def read(self, name: str) -> torch.Tensor:
        raise AssertionError("streamed tensors are not read whole")

    def spans(self, name: str) -> tuple[Span, ...]:
        (span,) = self._source.spans(name)
        places = [span.begin, *(span.begin + cut for cut in self._cuts[name]), span.end]
        return tuple(Span(span.path, a, b) for a, b in itertools.pairwise(places))


@pytest.mark.parametrize("changed", [False, True])
def test_tensors_in_several_spans_are_streamed(folder, changed):
    theirs = {"qkv": draw((60, 20), torch.bfloat16, 0), "w": draw((30,), torch.float32, 1)}
    ours = {name: tensor.clone() for name, tensor in theirs.items()}
    if changed:
        ours["qkv"][59, 19] += 1.0
    for name, tensors in (("ours", ours), ("theirs", theirs)):
        save_file(tensors, folder / f"{name}.safetensors")
    a = InPieces(open_weights((folder / "ours.safetensors",)), {"qkv": [801, 1600], "w": []})
    b = InPieces(open_weights((folder / "theirs.safetensors",)), {"qkv": [40], "w": [0, 3, 120]})

    difference = compare_components(of_weights(a), of_weights(b))

    assert list(difference.changed) == (["qkv"] if changed else [])
    if changed:
        check_against(plainly(ours["qkv"], theirs["qkv"]), difference, "qkv")


def test_integers_that_floats_would_round_to_one_differ(folder):
    theirs = torch.arange(10) + 2**53
    ours = theirs.clone()
    ours[0] += 1

    difference = compare_components(
        store(folder / "one.safetensors", {"w": ours}), store(folder / "two.safetensors", {"w": theirs})
    )

    assert difference.changed["w"].differing == 1


@pytest.mark.parametrize(
    ("theirs", "ours", "problem"),
    [(("F4", [4, 4], 8), ("F4", [4, 4], 8), "values"), (("F4", [4, 2], 4), ("F8_E4M3", [4, 2], 8), "dtype")],
)
def test_packed_floats(folder, theirs, ours, problem):
    sides = []
    for number, (dtype, shape, size) in enumerate((theirs, ours)):
        header = b'{"w":{"dtype":"%s","shape":%s,"data_offsets":[0,%d]}}' % (
            dtype.encode(),
            str(shape).encode(),
            size,
        )
        path = folder / f"packed{number}.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes([number + 1]) * size)
        sides.append(component(path))

    difference = compare_components(sides[1], sides[0])

    assert difference.changed["w"].problem == problem
    assert difference.worst_first() == ["w"]


def test_detail_tells_what_a_difference_looks_like(folder):
    theirs = draw((64, 64), torch.float32, 0)
    difference = compare_components(
        store(folder / "scaled.safetensors", {"w": theirs * 1.5}),
        store(folder / "plain.safetensors", {"w": theirs}),
    )

    assert difference.detail("w").likeness.kind == "scaled"
    assert difference.changed["w"].relative_norm_change == pytest.approx(0.5)


def test_identical_and_renamed_weights_need_no_torch(folder):
    tensors = {"a": draw((300, 7), torch.bfloat16, 0), "module.b": draw((5,), torch.float32, 1)}
    save_file(tensors, folder / "one.safetensors")
    save_file({"module.a": tensors["a"], "b": tensors["module.b"]}, folder / "two.safetensors")
    code = """
import sys
from pathlib import Path
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import compare_components
one, two = (Component("t", Path(p).parent, "diffusers", "T", weights_file=Path(p)) for p in sys.argv[1:])
difference = compare_components(one, two)
assert difference.is_empty and difference.compared == 2
assert not {"torch", "numpy", "safetensors"} & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", code, folder / "one.safetensors", folder / "two.safetensors"], check=True
    )
