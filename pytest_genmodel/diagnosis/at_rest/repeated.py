"""The same matrix under several names: a converter or a merge that wrote one layer in the place of others."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.finding import Finding, finding_of

ENOUGH_VALUES = 1024
_SHARED = re.compile(r"embed|shared|lm_head|wte")
"""Names of tensors that models share on purpose."""


def repeated(part: Part) -> Iterator[Finding]:
    """Matrices that hold, bit for bit, what another one of the component holds.

    Equal figures (mean, spread, least and largest value) point at them; their bytes decide.
    """
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, figures in part.statistics.items():
        stored = part.weights.tensors[name]
        tells = part.is_matrix(name) and part.is_float(name) and figures.numel >= ENOUGH_VALUES
        if tells and not figures.constant and name not in part.told and not _SHARED.search(name):
            key = (stored.shape, figures.mean, figures.std, figures.smallest, figures.largest)
            groups.setdefault(key, []).append(name)
    copies: list[str] = []
    first: dict[str, str] = {}
    for names in groups.values():
        seen: dict[str, str] = {}
        for name in names if len(names) > 1 else ():
            origin = seen.setdefault(part.weights.digest(name), name)
            if origin != name:
                copies.append(name)
                first[name] = origin
    if copies:
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
