"""The processes of one run that train side by side (ranks): whether they hold one model, and write one file each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_genmodel.training.trace import WEIGHTS

if TYPE_CHECKING:
    from pytest_genmodel.training.observer import Observed

Shape = tuple[int, ...]


def side_by_side_in(seen: Sequence[Observed]) -> list[Observed]:
    """Those that a launcher has started together and that took steps, by rank; none where a run is one process."""
    ranks = {observed.rank: observed for observed in seen if observed.rank is not None and observed.steps}
    return [ranks[rank] for rank in sorted(ranks, key=int)] if len(ranks) > 1 else []


def parted(ranks: Sequence[Observed]) -> tuple[int | None, list[Shape]]:
    """The first step, counted from 1, that some rank took from other weights than the first one; None if none did.

    Where that is the first step of all: the shapes of the parameters that are others. Ranks may hold parts (shards)
    of a model, which never have the same weights; whoever knows the whole model's shapes can tell.
    """
    if not ranks:
        return None, []
    first, *others = ranks
    for other in others:
        if [shape for shape, _ in first.started_from] != [shape for shape, _ in other.started_from]:
            return None, []
    for step in range(min(len(rank.trace) for rank in ranks)):
        if len({rank.trace[step][WEIGHTS] for rank in ranks}) > 1:
            return step + 1, [] if step else _unlike(ranks)
    return None, []


def _unlike(ranks: Sequence[Observed]) -> list[Shape]:
    first, *others = (rank.started_from for rank in ranks)
    return [shape for n, (shape, told) in enumerate(first) if any(other[n][1] != told for other in others)]


def shared(ranks: Sequence[Observed]) -> dict[str, int]:
    """Files that tensors were written to by more than one rank, each with the number of ranks."""
    writers = Counter(file for rank in ranks for file in rank.saves)
    return {file: count for file, count in writers.items() if count > 1}
