"""Figures of every stored tensor, from one streamed pass: memory stays constant at any size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.meter import Meter
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.checkpoints.spans import SpanReader
from pytest_genmodel.checkpoints.weight_set import StoredTensor, WeightSet
from pytest_genmodel.checkpoints.windows import Part, Windows, bytes_of, is_packed
from pytest_genmodel.tensors.threads import THREADS, in_threads, one_thread

if TYPE_CHECKING:
    from pytest_genmodel.tensors.moments import ValueStatistics


@dataclass(frozen=True)
class Statistics:
    """What the values of a tensor are like.

    `smallest`, `largest`, `abs_max`, `mean` and `std` (of the whole, not of a sample) are over the finite values,
    0.0 where there are none. A complex number counts as two values. Floats of less than 8 bits are not decoded: of
    them, only whether every bit is zero is known.
    """

    numel: int
    nan: int
    inf: int
    zeros: int
    smallest: float
    largest: float
    abs_max: float
    mean: float
    std: float
    constant: bool
    """Whether there are two values at least, and all are equal."""
    bf16_exact: bool
    """For float32 and float64 only: a cast to bfloat16 changes no value."""
    beyond_fp16: int
    """Finite values whose magnitude exceeds 65504, the largest of float16."""


def statistics(
    weights: WeightSet, names: Iterable[str] | None = None, progress: Progress = silent
) -> dict[str, Statistics]:
    """Look at every value of the tensors `names` (of all of them, if None), in two threads; needs torch.

    The result is the same in any number of threads.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    from pytest_genmodel.tensors.moments import ValueStatistics

    chosen = list(weights.tensors if names is None else names)
    meter = Meter(progress, "reading the weights", sum(bytes_of(weights, name) for name in chosen))
    totals = {name: ValueStatistics() for name in chosen}
    with one_thread(), SpanReader() as reader:
        scan = _Scan(weights, Windows(reader), meter)
        for name, part in in_threads(scan.work, scan.parts(chosen), THREADS):
            totals[name].add(part)
    meter.finish()
    return {
        name: (_packed if is_packed(weights.tensors[name]) else _statistics)(total, weights.tensors[name])
        for name, total in totals.items()
    }


def _statistics(total: ValueStatistics, stored: StoredTensor) -> Statistics:
    known = total.finite > 0
    smallest, largest = (total.smallest, total.largest) if known else (0.0, 0.0)
    return Statistics(
        numel=total.numel,
        nan=total.nan,
        inf=total.inf,
        zeros=total.zeros,
        smallest=smallest,
        largest=largest,
        abs_max=max(abs(smallest), abs(largest)),
        mean=total.mean,
        std=total.std,
        constant=total.constant,
        bf16_exact=stored.dtype in ("F32", "F64") and total.bf16_exact,
        beyond_fp16=total.beyond_fp16,
    )


def _packed(total: ValueStatistics, stored: StoredTensor) -> Statistics:
    """Of the bytes of values that share bytes, only this can be said: are they all zero?"""
    numel, empty = math.prod(stored.shape), total.zeros == total.numel
    return Statistics(
        numel=numel,
        nan=0,
        inf=0,
        zeros=numel if empty else 0,
        smallest=0.0,
        largest=0.0,
        abs_max=0.0,
        mean=0.0,
        std=0.0,
        constant=empty and numel > 1,
        bf16_exact=False,
        beyond_fp16=0,
    )


class _Scan:
    """Reads parts of tensors, in any number of threads."""

    def __init__(self, weights: WeightSet, windows: Windows, meter: Meter) -> None:
        self._weights, self._windows, self._meter = weights, windows, meter
        self._not_bf16: set[str] = set()

    def parts(self, names: Iterable[str]) -> Iterator[tuple[str, Part]]:
        """All the work there is."""
        for name in names:
            for part in self._windows.parts(self._weights, name):
                yield name, part

    def work(self, task: tuple[str, Part]) -> tuple[str, ValueStatistics]:
        """Give the figures of one part."""
        from pytest_genmodel.tensors.moments import ValueScan, ValueStatistics

        (name, part), windows = task, self._windows
        source, total, count = windows.open(self._weights, name), ValueStatistics(), 0
        scan = windows.own(("scan", source.dtype), lambda: ValueScan(source.dtype, windows.size))
        for block in windows.cut(part, source):
            values = source.block(block)
            found = scan.scan(values, ask_bf16=name not in self._not_bf16)
            if not found.bf16_exact:
                self._not_bf16.add(name)
            total.add(found)
            count += values.numel()
        self._meter.add(count * source.dtype.itemsize)
        return name, total
