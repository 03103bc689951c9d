"""The values of two weight sets, tensor by tensor, streamed: for the tensors whose bytes are not the same."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pytest_genmodel.checkpoints.meter import Meter
from pytest_genmodel.checkpoints.spans import SpanReader
from pytest_genmodel.checkpoints.statistics import statistics
from pytest_genmodel.checkpoints.weight_set import StoredTensor, WeightSet, torch_dtype
from pytest_genmodel.checkpoints.windows import Part, Source, Windows, bytes_of, is_packed
from pytest_genmodel.tensors.threads import THREADS, in_threads, one_thread

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison
    from pytest_genmodel.tensors.blocks import Block
    from pytest_genmodel.tensors.streamed import CastVerdict, PairFigures


@dataclass(frozen=True)
class Pair:
    """Two stored tensors to compare; their first `same` bytes are known to be equal."""

    ours: StoredTensor
    theirs: StoredTensor
    same: int = 0

    @property
    def lines_up(self) -> bool:
        """Whether every value of one side has its counterpart on the other."""
        unlike = self.ours.dtype != self.theirs.dtype and (is_packed(self.ours) or is_packed(self.theirs))
        return self.ours.shape == self.theirs.shape and not unlike


@dataclass
class Outcome:
    """What comparing a pair came to; pairs of equal numbers are neither `rounded` nor have a `comparison`."""

    finite: bool = True
    """No NaN and no Inf in ours."""
    rounded: bool = False
    """Ours is theirs cast to the dtype of ours."""
    comparison: Comparison | None = None
    """The figures of a pair that differs otherwise."""


def compare_values(ours: WeightSet, theirs: WeightSet, pairs: Sequence[Pair], meter: Meter) -> list[Outcome]:
    """Compare pairs of tensors number by number, in two threads; needs torch. Memory is constant at any size.

    Equal are numbers that a cast to the wider dtype makes the same, zeros of either sign, infinities of one sign,
    and NaN with NaN. The result is the same in any number of threads.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    with _without_collection():
        return _compare_values(ours, theirs, pairs, meter)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the garbage collector from walking torch's modules while they are imported: a tenth of the import."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _compare_values(ours: WeightSet, theirs: WeightSet, pairs: Sequence[Pair], meter: Meter) -> list[Outcome]:
    from pytest_genmodel.tensors.streamed import CastVerdict, PairFigures

    outcomes = [_unlike(pair) for pair in pairs]
    apart = {pair.ours.name: number for number, pair in enumerate(pairs) if not pair.lines_up}
    for name, seen in statistics(ours, apart).items():
        outcomes[apart[name]].finite = not (seen.nan or seen.inf)
        meter.add(bytes_of(ours, name))
    casts = {n: CastVerdict() for n, p in enumerate(pairs) if p.lines_up and p.ours.dtype != p.theirs.dtype}
    figures = {n: PairFigures() for n, p in enumerate(pairs) if p.lines_up and n not in casts}
    with one_thread(), SpanReader() as reader:
        scan = _Scan(ours, theirs, pairs, Windows(reader), meter, casts)
        for number, verdict in in_threads(scan.cast, scan.parts(casts), THREADS):
            casts[number].add(verdict)
        figures.update((number, PairFigures()) for number, verdict in casts.items() if not verdict.open)
        for number, found in in_threads(scan.figures, scan.parts(figures), THREADS):
            figures[number].add(found)
    for number, verdict in casts.items():
        outcomes[number] = Outcome(verdict.finite, rounded=verdict.rounded and not verdict.equal)
    for number, found in figures.items():
        outcomes[number] = _outcome(pairs[number], found)
    return outcomes


def _outcome(pair: Pair, found: PairFigures) -> Outcome:
    if not found.differing:
        return Outcome(found.actual_is_finite)
    dtypes = torch_dtype(pair.ours.dtype), torch_dtype(pair.theirs.dtype)
    return Outcome(found.actual_is_finite, comparison=found.comparison(pair.ours.shape, dtypes))


def _unlike(pair: Pair) -> Outcome:
    """The outcome of a pair whose shapes, or ways to pack values into bytes, leave nothing to compare."""
    from pytest_genmodel.tensors import Comparison, bitwise
    from pytest_genmodel.tensors.dtypes import dtype_name

    if pair.lines_up:
        return Outcome()
    dtypes = (dtype_name(torch_dtype(pair.ours.dtype)), dtype_name(torch_dtype(pair.theirs.dtype)))
    same_shape = pair.ours.shape == pair.theirs.shape
    comparison = Comparison(
        False,
        bitwise,
        "dtype" if same_shape else "shape",
        (pair.ours.shape, pair.theirs.shape),
        dtypes,
        ("cpu", "cpu"),
        numel=math.prod(pair.ours.shape),
    )
    return Outcome(comparison=comparison)


_Task = tuple[int, Part]
_Kind = TypeVar("_Kind")


class _Scan:
    """Reads parts of pairs, in any number of threads; a task is the number of a pair and a part of it."""

    def __init__(
        self,
        ours: WeightSet,
        theirs: WeightSet,
        pairs: Sequence[Pair],
        windows: Windows,
        meter: Meter,
        casts: dict[int, CastVerdict],
    ) -> None:
        self._ours, self._theirs, self._pairs = ours, theirs, pairs
        self._windows, self._meter, self._casts = windows, meter, casts

    def parts(self, numbers: Iterable[int]) -> Iterator[_Task]:
        """All the work on these pairs."""
        for number in list(numbers):
            pair = self._pairs[number]
            for part in self._windows.parts(self._ours, pair.ours.name, (self._theirs, pair.theirs.name)):
                yield number, part

    def figures(self, task: _Task) -> tuple[int, PairFigures]:
        """Give the figures of one part."""
        from pytest_genmodel.tensors.streamed import PairFigures, PairScan

        number, total = task[0], PairFigures()
        for a, b, block in self._blocks(task):
            scan = self._scan(PairScan, a, b)
            expected = b.block(block)
            end = (block.offset + math.prod(block.shape)) * b.dtype.itemsize
            # What is known to be equal is needed for the norm alone, and not read twice.
            actual = expected if end <= self._pairs[number].same else a.block(block)
            total.add(scan.scan(actual, expected, block.offset))
            if number not in self._casts and end > self._pairs[number].same:
                self._meter.add(actual.numel() * a.dtype.itemsize)
        return number, total

    def cast(self, task: _Task) -> tuple[int, CastVerdict]:
        """Say whether one side of a part is a cast of the other; what another part has ruled out is not looked at."""
        from pytest_genmodel.tensors.streamed import CastScan, CastVerdict

        number, total = task[0], CastVerdict()
        for a, b, block in self._blocks(task):
            total.add(CastVerdict(self._casts[number].equal, self._casts[number].rounded))
            if total.open:
                scan = self._scan(CastScan, a, b)
                total.add(scan.scan(a.block(block), b.block(block), total))
            self._meter.add(math.prod(block.shape) * a.dtype.itemsize)
        return number, total

    def _scan(self, kind: Callable[[torch.dtype, torch.dtype, int], _Kind], a: Source, b: Source) -> _Kind:
        """The scan of a kind for two dtypes, one to a thread."""
        size = self._windows.size
        return self._windows.own((kind, a.dtype, b.dtype), lambda: kind(a.dtype, b.dtype, size))

    def _blocks(self, task: _Task) -> Iterator[tuple[Source, Source, Block]]:
        number, part = task
        pair = self._pairs[number]
        a = self._windows.open(self._ours, pair.ours.name, 0)
        b = self._windows.open(self._theirs, pair.theirs.name, 1)
        for block in self._windows.cut(part, a, b):
            yield a, b, block
