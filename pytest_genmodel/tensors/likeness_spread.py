"""Likenesses told by where the difference sits and by statistics: few elements, a block, noise, another draw."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from .blocks import Block, runs, threads_for
from .dtypes import as_bits, as_wide, kind_of
from .likeness_evidence import Evidence, Likeness, percent, take, unequal
from .threads import in_threads

# With n places the correlation of unrelated tensors has a standard error of 1/sqrt(n): 0.03 at 1000.
_ENOUGH_FOR_CORRELATION = 1000
_UNCORRELATED = 0.1
_ENOUGH_FOR_NOISE = 64
_FIRST = 3  # places that are named
_GLANCE = 64


@dataclass
class Footprint:
    """Which elements differ: how many, the first few flat places, and from where to where on each axis."""

    spans: list[tuple[int, int]]
    """For each axis the first place with a difference, and the one after the last; (size, 0) where there is none."""
    count: int = 0
    first: list[int] = field(default_factory=list)

    def widen(self, axis: int, start: int, stop: int) -> None:
        """Take in places of an axis."""
        self.spans[axis] = min(self.spans[axis][0], start), max(self.spans[axis][1], stop)

    def follow(self, other: Footprint) -> None:
        """Take in what comes after."""
        self.count += other.count
        self.first = (self.first + other.first)[:_FIRST]
        for axis, span in enumerate(other.spans):
            self.widen(axis, *span)


def footprint(evidence: Evidence) -> Footprint:
    """One pass over both tensors."""
    shape = evidence.shape

    def work(run: list[Block]) -> Footprint:
        seen = Footprint([(size, 0) for size in shape])
        for block in run:
            differ = unequal(*_comparable(block.of(evidence.actual), block.of(evidence.expected)))
            here = int(differ.sum())
            if here:
                seen.count += here
                _add_places(seen, block, differ)
        return seen

    whole = Footprint([(size, 0) for size in shape])
    for seen in in_threads(work, runs(shape), threads_for(evidence.actual)):
        whole.follow(seen)
    return whole


def _add_places(seen: Footprint, block: Block, differ: torch.Tensor) -> None:
    if len(seen.first) < _FIRST:
        places = differ.view(-1).nonzero()[: _FIRST - len(seen.first), 0] + block.offset
        seen.first += places.tolist()
    fixed = max(0, len(block.index) - 1)
    for axis in range(len(seen.spans)):
        place = block.index[axis] if axis < len(block.index) else slice(0, differ.shape[axis - fixed])
        if isinstance(place, int):
            seen.widen(axis, place, place + 1)
        elif not (seen.spans[axis][0] <= place.start and place.stop <= seen.spans[axis][1]):
            others = [other for other in range(differ.dim()) if other != axis - fixed]
            start, stop = _ends(differ.amax(dim=others) if others else differ)
            seen.widen(axis, place.start + start, place.start + stop)


def _ends(hit: torch.Tensor) -> tuple[int, int]:
    """The first place of a row that is not 0, and the one after the last; there is one."""
    head, tail = hit[:_GLANCE].nonzero(), hit[-_GLANCE:].nonzero()
    places = hit.nonzero() if not (head.numel() and tail.numel()) else None
    start = int(head[0]) if places is None else int(places[0])
    stop = max(0, hit.numel() - _GLANCE) + int(tail[-1]) if places is None else int(places[-1])
    return start, stop + 1


def _comparable(actual: torch.Tensor, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides as they are, where torch can compare them so."""
    if actual.dtype == expected.dtype and actual.dtype in (torch.float32, torch.bfloat16, torch.float16):
        return actual, expected
    return as_wide(actual), as_wide(expected)


def few_elements(evidence: Evidence, seen: Footprint, most: int) -> Likeness | None:
    """Only a handful differs."""
    if not 0 < seen.count <= most or seen.count * 2 > evidence.numel:
        return None
    places = ", ".join(evidence.place(place) for place in seen.first)
    more = f" and {seen.count - len(seen.first)} more" if seen.count > len(seen.first) else ""
    bit = _flipped_bit(evidence, seen)
    return Likeness(
        "few_elements",
        f"only {seen.count} of {evidence.numel} elements differ, at {places}{more}{bit}; the rest is equal",
        "One flipped bit is a damaged file or memory: fetch it again and compare its checksum."
        if bit
        else "Something wrote to single places: look for an indexed assignment, or damage to the file.",
        details={"count": seen.count, "first": seen.first[0]},
    )


def block(evidence: Evidence, seen: Footprint) -> tuple[int, int, int] | None:
    """The axis and range (start, stop) that hold all differences, if that is a proper part and well filled."""
    best: tuple[float, int, int, int] | None = None
    for axis, size in enumerate(evidence.shape):
        start, stop = seen.spans[axis]
        share = (stop - start) / size
        if share <= 0.75 and (best is None or share < best[0]):
            best = share, axis, start, stop
    if best is None or seen.count < 0.25 * best[0] * evidence.numel:
        return None
    return best[1:]


def block_likeness(evidence: Evidence, axis: int, start: int, stop: int, inner: Likeness | None) -> Likeness:
    """All differences lie in one range of an axis; `inner` says what that part looks like by itself."""
    name, size = evidence.names[axis], evidence.shape[axis]
    where = f"{start}..{stop - 1}" if stop - start > 1 else f"{start}"
    part = f"; there, {inner.text}" if inner is not None else ""
    hint = (
        f"Only this part of {name} is wrong: look for a slice, a shard or a fused part that was not written."
    )
    return Likeness(
        "block",
        f"all differences are at {where} of {size} along {name}{part}",
        inner.hint if inner is not None else hint,
        details={"axis": axis, "start": start, "stop": stop, "inside": inner.kind if inner else "values"},
    )


def fresh_init(evidence: Evidence) -> Likeness | None:
    """Values that have nothing to do with expected and are spread as an initialisation is."""
    moments = evidence.moments
    if not _uncorrelated(evidence) or kind_of(evidence.actual.dtype) != "float":
        return None
    how = _known_init(evidence)
    if how is None:
        like_expected = math.isclose(moments.std_actual, moments.std_expected, rel_tol=0.05) and abs(
            moments.mean_actual - moments.mean_expected
        ) <= 0.05 * moments.std_expected + _mean_error(evidence)
        if not like_expected:
            return None
        how = f"with the mean and spread of expected (std {moments.std_actual:.3g})"
    return Likeness(
        "fresh_init",
        f"actual is another random draw, {how}: correlation {moments.correlation:+.3f} over {moments.n} places",
        "No file filled this tensor, or another seed did: look for missing keys, a wrong prefix, or strict=False.",
        details={"correlation": moments.correlation, "n": moments.n, "std": moments.std_actual},
    )


def noise(evidence: Evidence) -> Likeness | None:
    """A small difference everywhere that follows no value of expected."""
    moments, size = evidence.moments, evidence.difference
    x, y = evidence.sample
    spread = float((x != y).to(torch.float64).mean())
    if moments.n < _ENOUGH_FOR_NOISE or size > 0.5 or spread < 0.5 or moments.correlation < 0.8:
        return None
    if abs(moments.drift) > max(_UNCORRELATED, 3.0 / math.sqrt(moments.n)) or moments.kurtosis > 20.0:
        return None
    if size <= 8.0 * evidence.rounding:
        hint = "That is rounding: another kernel, thread count, batch size or library version does that."
    elif size <= 2.0**-7:
        hint = "That is the size of half-precision rounding: look for an autocast or a cast on the way here."
    else:
        hint = "Too large for rounding: look for another seed, a dropout that is on, or real training steps."
    return Likeness(
        "noise",
        f"noise of {percent(size)} of the size of expected on {percent(spread)} of the elements, "
        f"independent of their values (n = {moments.n})",
        hint,
        details={"size": size, "drift": moments.drift, "kurtosis": moments.kurtosis, "n": moments.n},
    )


def unrelated(evidence: Evidence) -> Likeness | None:
    """No correlation at all, and no initialisation to be seen."""
    if not _uncorrelated(evidence):
        return None
    moments = evidence.moments
    return Likeness(
        "unrelated",
        f"the two have nothing in common: correlation {moments.correlation:+.3f} over {moments.n} places, "
        f"std {moments.std_actual:.3g} against {moments.std_expected:.3g}",
        "Probably another tensor: check the key mapping, and that both sides come from the same layer, step or seed.",
        details={"correlation": moments.correlation, "n": moments.n},
    )


def correlated(evidence: Evidence) -> Likeness | None:
    """What is left to say: how alike they are."""
    moments = evidence.moments
    if moments.n < _ENOUGH_FOR_NOISE or moments.correlation == 0.0:
        return None
    return Likeness(
        "correlated",
        f"related, but by no simple rule: correlation {moments.correlation:+.4f} over {moments.n} places",
        "The same thing computed or trained differently: look upstream for the first tensor that differs.",
        details={"correlation": moments.correlation, "n": moments.n},
    )


def _uncorrelated(evidence: Evidence) -> bool:
    moments = evidence.moments
    return (
        moments.n >= _ENOUGH_FOR_CORRELATION
        and abs(moments.correlation) < _UNCORRELATED
        and moments.std_actual > 0.0
        and moments.std_expected > 0.0
    )


def _known_init(evidence: Evidence) -> str | None:
    """The usual initialisations, told by their spread (5 standard errors) and, if uniform, by their bound."""
    moments = evidence.moments
    room = max(0.01, 5.0 / math.sqrt(2.0 * moments.n))
    if abs(moments.mean_actual) > 5.0 * moments.std_actual / math.sqrt(moments.n):
        return None
    fan_in = math.prod(evidence.shape[1:])
    if len(evidence.shape) >= 2 and fan_in > 1:
        bound = 1.0 / math.sqrt(fan_in)
        largest = float(evidence.sample[0].abs().amax())
        uniform = math.isclose(moments.std_actual, bound / math.sqrt(3.0), rel_tol=room)
        if uniform and 0.97 * bound <= largest <= 1.01 * bound:
            return f"uniform in +-1/sqrt({fan_in}) = +-{bound:.3g}, as torch initialises Linear and Conv"
    for std, whose in (
        (0.02, "as transformers initialises"),
        (1.0, "as torch initialises Embedding, or randn"),
    ):
        if math.isclose(moments.std_actual, std, rel_tol=room):
            return f"with std {std:g}, {whose}"
    return None


def _mean_error(evidence: Evidence) -> float:
    return 5.0 * evidence.moments.std_actual / math.sqrt(evidence.moments.n)


def _flipped_bit(evidence: Evidence, seen: Footprint) -> str:
    """Names the bit if the only difference is one bit of one element."""
    if seen.count != 1 or evidence.actual.dtype != evidence.expected.dtype:
        return ""
    place = torch.tensor(seen.first)
    first, second = (int(as_bits(take(side, place))) for side in (evidence.actual, evidence.expected))
    mask = (first ^ second) & (2 ** (8 * evidence.actual.dtype.itemsize) - 1)
    return f" (one bit, number {mask.bit_length() - 1}, is flipped)" if mask.bit_count() == 1 else ""
