"""What the difference between two tensors looks like.

A difference has a cause, and the usual causes leave a mark: a cast, a lost factor, a transpose, a tensor that no file
filled. :func:`explain` tries the marks from the most to the least specific and claims only what it has checked: a
transformation of `expected` is carried out and measured against `actual`, a statistical likeness states its n.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .likeness_evidence import Evidence, Likeness
from .likeness_layout import axis_flipped, flat_shift, moved_along_axis, rolled_line, same_values, transposed
from .likeness_spread import (
    block,
    block_likeness,
    correlated,
    few_elements,
    footprint,
    fresh_init,
    noise,
    unrelated,
)
from .likeness_values import (
    cast,
    constant,
    eight_bit,
    linear,
    nonfinite,
    offset,
    range_mapped,
    scaled,
    sign_flipped,
)
from .sums import Sums
from .threads import one_thread

__all__ = ["Likeness", "explain"]

Pattern = Callable[[Evidence], Likeness | None]

_WHOLE: tuple[Pattern, ...] = (
    constant,
    sign_flipped,
    cast,
    transposed,
    axis_flipped,
    moved_along_axis,
    rolled_line,
    flat_shift,
    same_values,
    range_mapped,
    scaled,
    offset,
    linear,
    eight_bit,
)
_STATISTICAL: tuple[Pattern, ...] = (fresh_init, noise, unrelated, correlated)

# This few differing elements are listed before anything else is tried: no pattern can rest on them.
_A_HANDFUL = 4


def explain(
    actual: torch.Tensor,
    expected: torch.Tensor,
    *,
    names: tuple[str, ...] = (),
    sums: Sums | None = None,
) -> Likeness | None:
    """The most specific likeness of two dense tensors of one shape, or None.

    None for equal tensors, for fewer than two elements, and where nothing can be said honestly. `names` are the names
    of the axes, `sums` the totals of the pair, where they are known already. Reads both tensors a few times, in
    blocks; beyond 2^24 elements rearrangements and statistics rest on 2^20 places, and the text says so.
    """
    if actual.shape != expected.shape or actual.numel() < 2 or actual.is_complex() != expected.is_complex():
        return None
    with one_thread():
        return _explain(Evidence(actual.detach(), expected.detach(), names, sums), look_inside=True)


def _explain(evidence: Evidence, *, look_inside: bool) -> Likeness | None:
    odd = nonfinite(evidence)
    if odd is not None:
        return odd
    seen = footprint(evidence)
    if seen.count == 0:
        return None
    sparse = few_elements(evidence, seen, _A_HANDFUL)
    likeness = _first(_WHOLE, evidence)
    if likeness is not None and (sparse is None or likeness.kind in ("all_zero", "constant", "permuted")):
        return likeness
    if sparse is not None:
        return sparse
    part = block(evidence, seen)
    if part is not None:
        axis, start, stop = part
        return block_likeness(evidence, axis, start, stop, _inside(evidence, axis, start, stop, look_inside))
    few = max(16, evidence.numel // 1000)
    return few_elements(evidence, seen, few) or _first(_STATISTICAL, evidence)


def _inside(evidence: Evidence, axis: int, start: int, stop: int, look_inside: bool) -> Likeness | None:
    if not look_inside:
        return None
    actual, expected = (
        side.narrow(axis, start, stop - start) for side in (evidence.actual, evidence.expected)
    )
    return _explain(Evidence(actual, expected, evidence.names), look_inside=False)


def _first(patterns: tuple[Pattern, ...], evidence: Evidence) -> Likeness | None:
    for pattern in patterns:
        likeness = pattern(evidence)
        if likeness is not None:
            return likeness
    return None
