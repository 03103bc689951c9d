"""A file that is not of one piece: shards of two saves side by side, or one stretch of bytes that is another's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.finding import Finding, finding_of

_BLOCK = re.compile(r"^.*?\.\d+(?=\.)")
_FEW = 4
"""Tensors that a shard must hold for its staying as it was to mean something."""
_CHANGED = 0.9
"""Share of the other shards' tensors, and of a stretch's values, that must differ."""
_LARGEST = 0.25
"""Share of a file that a stretch may take: what is longer is another file."""
_INSIDE = 16
"""Values at an end of a tensor that are equal where a stretch begins or ends within it."""


def old_shards(difference: WeightDifference) -> dict[Path, list[str]]:
    """The files in which no tensor differs while nearly all others do, where a block lies in both; {} if none.

    A part of the model may be frozen on purpose; no one freezes what happens to lie in a file.
    """
    stored = difference.ours.tensors
    files: dict[Path, list[str]] = {}
    for name, (one, _) in difference.counterparts.items():
        files.setdefault(stored[one].file, []).append(name)
    if len(files) < 2 or difference.rounded:
        return {}
    old = {
        file: names for file, names in files.items() if not any(name in difference.changed for name in names)
    }
    new = [name for file, names in files.items() if file not in old for name in names]
    moved = [name for name in new if name in difference.changed]
    if not old or not moved or len(moved) < _CHANGED * len(new):
        return {}
    kept = [name for names in old.values() for name in names]
    cut = {found[0] for name in kept if (found := _BLOCK.match(name))}
    is_cut = any((found := _BLOCK.match(name)) and found[0] in cut for name in new)
    return old if is_cut and all(len(names) >= _FEW for names in old.values()) else {}


def shards_finding(component: str, old: dict[Path, list[str]], total: int) -> Finding:
    """Say which files are the reference's."""
    names = [name for names in old.values() for name in names]
    files = sorted(file.name for file in old)
    return finding_of(
        "GM331",
        names,
        "are the reference's, and those of the other files have changed",
        of=total,
        after=f"; they are all that {', '.join(files)} {'holds' if len(files) == 1 else 'hold'}",
        component=component or None,
        location=files[0],
        cause="the save was broken off, or a shard of another one was copied beside it: one block lies in both",
        evidence={"files": files},
    )


@dataclass(frozen=True)
class Stretch:
    """Bytes `begin` to `end` of `file`, in which all lies that differs, and the tensors that it touches."""

    file: Path
    begin: int
    end: int
    names: tuple[str, ...]


def stretch(difference: WeightDifference) -> Stretch | None:
    """The one stretch of a file outside which every byte is the reference's; None where there is none.

    It must begin or end within a tensor, and touch several: training does neither.
    """
    places = _places(difference)
    changed = [name for name in places if name in difference.changed]
    if len(changed) < 2 or len(changed) < len(difference.changed) or difference.rounded:
        return None
    order = list(places)
    first, last = order.index(changed[0]), order.index(changed[-1])
    if last - first + 1 != len(changed) or places[changed[0]][0] != places[changed[-1]][0]:
        return None
    for name in changed[1:-1]:
        comparison = difference.changed[name]
        if (comparison.differing or 0) < _CHANGED * comparison.numel:
            return None
    begin, end = _changed_values(difference, changed[0]), _changed_values(difference, changed[-1])
    if begin is None or end is None or not (begin[0] >= _INSIDE or end[1] <= end[2] - _INSIDE):
        return None
    if begin[1] != begin[2] or end[0] != 0:
        return None
    file, start, width = places[changed[0]]
    _, other, other_width = places[changed[-1]]
    found = Stretch(file, start + begin[0] * width, other + end[1] * other_width, tuple(changed))
    size = file.stat().st_size
    return found if found.end - found.begin <= _LARGEST * size else None


def _places(difference: WeightDifference) -> dict[str, tuple[Path, int, int]]:
    """For each tensor that lies in one piece: its file, its first byte, the width of a value; in the file's order."""
    found = {}
    for name, (one, _) in difference.counterparts.items():
        spans, count = difference.ours.spans(one), prod(difference.ours.tensors[one].shape)
        if spans is not None and len(spans) == 1 and count:
            found[name] = (spans[0].path, spans[0].begin, spans[0].size // count)
    return dict(sorted(found.items(), key=lambda item: (str(item[1][0]), item[1][1])))


def _changed_values(difference: WeightDifference, name: str) -> tuple[int, int, int] | None:
    """The first value that differs, one after the last, and how many there are; None where many between are equal."""
    ours, theirs = (side.flatten() for side in difference.read(name))
    if ours.dtype != theirs.dtype or len(ours) != len(theirs):
        return None
    places = (ours != theirs).nonzero().flatten()
    if not len(places):
        return None
    first, last = int(places[0]), int(places[-1]) + 1
    return (first, last, len(ours)) if len(places) >= _CHANGED * (last - first) else None


def stretch_finding(component: str, found: Stretch, total: int) -> Finding:
    """Say where the stretch lies, and which tensors it touches."""
    return finding_of(
        "GM332",
        list(found.names),
        "differ from the reference's in one stretch of the file and nowhere else",
        of=total,
        after=f"; {found.end - found.begin} bytes from byte {found.begin} of {found.file.name} on",
        component=component or None,
        cause="a part of the file was lost or written over when it was copied",
        evidence={"file": found.file.name, "begin": found.begin, "end": found.end},
    )
