"""A random projection of a tensor to 512 numbers, from which distances are estimated: a count sketch.

Every value gets a random sign and one of `SIZE` places at random, and the places are summed (Charikar, Chen and
Farach-Colton 2002; as a projection that keeps norms: Weinberger et al. 2009, arXiv 0902.2206). It is linear: the
sketch of a difference is the difference of the sketches, so ||S(a) - S(b)|| estimates ||a - b|| with neither at hand.

The bound. The square of the estimate has the right mean, and a relative standard deviation of at most sqrt(2 / SIZE)
= 6.25 %, whatever a and b are: signs are independent, and two values share a place with probability 1 / SIZE at
most, so that Var ||Sx||^2 = 2 sum_{i != j} x_i^2 x_j^2 P(same place) <= 2 / SIZE ||x||^4. By Chebyshev the estimate
is then within `error(0.95)` of the truth with probability 0.95: 15 % too small at worst, 13 % too large. Where
many values differ (all but the sparsest changes) it is nearly Gaussian: 3 % is one standard deviation. Tensors of at
most `SIZE` values are stored as they are, and a multiple of the reference is recognised exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod, sqrt
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.meter import Meter
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.checkpoints.spans import SpanReader
from pytest_genmodel.checkpoints.weight_set import WeightSet
from pytest_genmodel.checkpoints.windows import BLOCKS_OF_TASK, Part, Windows, bytes_of, is_packed
from pytest_genmodel.tensors.threads import THREADS, in_threads, one_thread

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors.moments import ValueStatistics

SIZE = 512
"""Numbers of a sketch: 2 KiB a tensor, 3 MB for the 1,500 tensors of a 14B pipeline."""
BLOCK = 2**18
"""Values that are permuted and summed at a time; part of the format."""
FLOOR = 2e-6
"""What float32 sums and the stored float32 lose, relative to the tensor's norm (measured: 2e-7); a smaller
difference shows in the digest alone."""
CONFIDENCE = 0.95
_SEED = 20_260_101


def error(confidence: float = CONFIDENCE, size: int = SIZE) -> tuple[float, float]:
    """How far an estimated norm may be below and above the true one, relative to it, with this probability.

    From Chebyshev's inequality, for any difference; with a square that is off by e = sqrt(2 / (size (1 - p))), the
    norm lies between sqrt(1 - e) and sqrt(1 + e) of the truth.
    """
    off = sqrt(2.0 / (size * (1.0 - confidence)))
    return 1.0 - sqrt(max(0.0, 1.0 - off)), sqrt(1.0 + off) - 1.0


@dataclass(frozen=True)
class Facts:
    """What is known of a tensor after one pass: the figures of its values, and its sketch, float32 (SIZE,)."""

    statistics: ValueStatistics
    row: torch.Tensor

    @property
    def norm(self) -> float:
        """The L2 norm, from the moments."""
        seen = self.statistics
        return sqrt(max(0.0, seen.square_deviation + seen.finite * seen.mean**2))


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The estimated L2 distance of two tensors of one shape, from their sketches."""
    return float((ours.double() - theirs.double()).norm())


def cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float | None:
    """The estimated cosine of two tensors (error: 1 / sqrt(SIZE), 0.044); None where a sketch is all zero."""
    ours, theirs = ours.double(), theirs.double()
    norms = float(ours.norm() * theirs.norm())
    return float(ours @ theirs) / norms if norms else None


class Sketcher:
    """Sketches flat blocks of one dtype, each of at most `BLOCK` values; buffers are used again."""

    def __init__(self, dtype: torch.dtype) -> None:
        import torch

        from pytest_genmodel.tensors.widening import Widening

        self._widening = Widening(dtype, torch.float32, BLOCK)
        self._values = torch.empty(BLOCK)
        self._signs = torch.empty(BLOCK, dtype=torch.int32)
        self._placed = torch.empty(BLOCK)

    def sketch(self, block: torch.Tensor, number: int) -> torch.Tensor:
        """The sketch of block `number` (from 0) of a tensor, float64 (SIZE,); add those of all blocks."""
        import numpy as np
        import torch

        count = block.numel()
        values = self._values
        values[:count] = self._widening.load(block)
        values[count:] = 0.0
        random = np.random.Philox(key=_SEED, counter=[0, 0, 0, number])
        words = random.random_raw(BLOCK // 64 + 1)
        bits = np.unpackbits(words[1:].astype("<u8").view(np.uint8))
        # A sign is flipped in its bit: a product would take twice as long.
        signs = self._signs.copy_(torch.from_numpy(bits)).bitwise_left_shift_(31)
        signed = signs.bitwise_xor_(values.view(torch.int32)).view(torch.float32)
        torch.index_select(signed, 0, _places(), out=self._placed)
        # Another rotation for every block: values at one place of two blocks meet no more often than others.
        return self._placed.view(-1, SIZE).sum(0).double().roll(int(words[0] % SIZE))


@lru_cache
def _places() -> torch.Tensor:
    """A permutation of a block; numpy promises that this one stays the same in every version."""
    import numpy as np
    import torch

    return torch.from_numpy(np.random.RandomState(_SEED % 2**32).permutation(BLOCK).astype("int32"))


def sketch(tensor: torch.Tensor) -> torch.Tensor:
    """The sketch of a tensor of any dtype that torch can convert, float32 (SIZE,).

    At most `SIZE` values are given as they are, filled up with zeros. A complex number counts as two values.
    """
    import torch

    with one_thread():
        flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).detach().cpu().reshape(-1)
        if flat.numel() <= SIZE:
            return _as_they_are(flat)
        sketcher, total = Sketcher(flat.dtype), torch.zeros(SIZE, dtype=torch.float64)
        for number, begin in enumerate(range(0, flat.numel(), BLOCK)):
            total += sketcher.sketch(flat[begin : begin + BLOCK], number)
        return total.float()


def _as_they_are(flat: torch.Tensor) -> torch.Tensor:
    import torch

    row = torch.zeros(SIZE)
    row[: flat.numel()] = flat.float()
    return row


def facts(
    weights: WeightSet, names: Iterable[str] | None = None, progress: Progress = silent
) -> dict[str, Facts]:
    """Read the tensors `names` (all of them, if None) once, in two threads: figures and sketch of each.

    The same in any number of threads. Tensors whose values share bytes (4-bit floats) are left out: they have
    no values here.

    Raises:
        DamagedFileError: a file cannot be read.
    """
    import torch

    from pytest_genmodel.tensors.moments import ValueStatistics

    stored = weights.tensors
    chosen = [name for name in (stored if names is None else names) if not is_packed(stored[name])]
    meter = Meter(progress, "sketching the weights", sum(bytes_of(weights, name) for name in chosen))
    figures = {name: ValueStatistics() for name in chosen}
    rows = {name: torch.zeros(SIZE, dtype=torch.float64) for name in chosen}
    with one_thread(), SpanReader() as reader:
        scan = _Scan(weights, Windows(reader), meter)
        for name, figure, row in in_threads(scan.work, scan.parts(chosen), THREADS):
            figures[name].add(figure)
            rows[name] += row
    meter.finish()
    return {name: Facts(figures[name], rows[name].float()) for name in chosen}


class _Scan:
    """Reads parts of tensors, in any number of threads."""

    def __init__(self, weights: WeightSet, windows: Windows, meter: Meter) -> None:
        self._weights, self._windows, self._meter = weights, windows, meter

    def parts(self, names: Iterable[str]) -> Iterator[tuple[str, Part]]:
        """All the work there is; parts begin at whole blocks."""
        for name in names:
            numel = max(1, prod(self._weights.tensors[name].shape))
            step = numel if self._weights.spans(name) is None else BLOCKS_OF_TASK * BLOCK
            for begin in range(0, numel, step):
                yield name, Part(begin, min(begin + step, numel))

    def work(self, task: tuple[str, Part]) -> tuple[str, ValueStatistics, torch.Tensor]:
        """Give the figures and the sketch of one part."""
        import torch

        from pytest_genmodel.tensors.moments import ValueScan, ValueStatistics

        name, part = task
        figures, row = ValueStatistics(), torch.zeros(SIZE, dtype=torch.float64)
        for number, values, is_whole in self._blocks(name, part):
            scan = self._windows.own(("figures", values.dtype), partial(ValueScan, values.dtype, BLOCK))
            figures.add(scan.scan(values, ask_bf16=False))
            if is_whole and values.numel() <= SIZE:
                row += _as_they_are(values)
            else:
                row += self._windows.own(("sketch", values.dtype), partial(Sketcher, values.dtype)).sketch(
                    values, number
                )
            self._meter.add(values.numel() * values.element_size())
        return name, figures, row

    def _blocks(self, name: str, part: Part) -> Iterator[tuple[int, torch.Tensor, bool]]:
        """Flat blocks of real numbers, their place, and whether there is one only; each is good until the next."""
        import torch

        from pytest_genmodel.tensors.blocks import Block

        if self._weights.spans(name) is None:
            held = self._weights.read(name).contiguous()
            flat = (torch.view_as_real(held) if held.is_complex() else held).view(-1)
            for begin in range(0, flat.numel(), BLOCK):
                yield begin // BLOCK, flat[begin : begin + BLOCK], flat.numel() <= BLOCK
            return
        source = self._windows.open(self._weights, name)
        parts = 2 if source.dtype.is_complex else 1
        step = BLOCK // parts
        for begin in range(part.begin, min(part.end or 0, source.numel), step):
            count = min(step, source.numel - begin)
            block = source.block(Block((), begin, (count,)))
            values = torch.view_as_real(block).view(-1) if parts == 2 else block
            yield begin // step, values, source.numel <= step
