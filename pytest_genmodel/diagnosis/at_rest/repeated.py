"""The same matrix under several names: a converter or a merge that wrote one layer in the place of others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.finding import Finding, finding_of

ENOUGH_VALUES = 1024
_SHARED = re.compile(r"embed|shared|lm_head|wte")
"""Names of tensors that models share on purpose."""


def repeated(part: Part) -> Iterator[Finding]:
    """Matrices that hold, bit for bit, what another one of the component holds."""
    matrices = (
        name
        for name in part.statistics
        if part.is_matrix(name) and part.is_float(name) and not _SHARED.search(name)
    )
    first = copies_among(part, matrices, ENOUGH_VALUES)
    if first:
        copies = list(first)
        part.told.update(copies)
        yield finding_of(
            "GM322",
            copies,
            "hold what another one holds",
            noun="matrices",
            of=len(part.statistics),
            after=f"; {copies[0]} is {first[copies[0]]}",
            component=part.name or None,
            evidence={"copies_of": dict(list(first.items())[:20])},
        )


def copies_among(part: Part, names: Iterable[str], least: int) -> dict[str, str]:
    """The tensors that hold, bit for bit, what an earlier one of them holds, each with that one.

    Equal figures (mean, spread, least and largest value) point at them; their bytes decide. Tensors of fewer than
    `least` values, of one number, without figures, or told of already are left out.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in names:
        figures = part.statistics.get(name)
        if figures is None or figures.numel < least or figures.constant or name in part.told:
            continue
        key = (part.weights.tensors[name].shape, figures.mean, figures.std, figures.smallest, figures.largest)
        groups.setdefault(key, []).append(name)
    first: dict[str, str] = {}
    for alike in groups.values():
        seen: dict[str, str] = {}
        for name in alike if len(alike) > 1 else ():
            origin = seen.setdefault(part.weights.digest(name), name)
            if origin != name:
                first[name] = origin
    return first
