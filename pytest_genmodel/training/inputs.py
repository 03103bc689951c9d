"""What a trainer is given to start from: a copy, and whether it kept to it.

A trainer must write into its output folder alone. What it wrote into its copy is told, and whether it reached around
the copy to the original: by an absolute path, a link, the hub's cache.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Stamp = tuple[int, int, int]
"""Size, time of change in nanoseconds, and number of the file: one of them is another after a write."""


@dataclass(frozen=True)
class Snapshot:
    """The files of a folder as they were, looked at through links."""

    root: Path
    stamps: dict[str, Stamp]

    @classmethod
    def of(cls, root: Path) -> Snapshot:
        """Look at every file of `root`; nothing is read."""
        return cls(root, dict(_stamps(root)))

    def touched(self) -> tuple[str, ...]:
        """Files that were written to, added or removed since, by their names below the root."""
        now = dict(_stamps(self.root))
        names = self.stamps.keys() | now.keys()
        return tuple(sorted(name for name in names if self.stamps.get(name) != now.get(name)))


@dataclass(frozen=True)
class Inputs:
    """The copy that a trainer works on, and the originals that it must not reach."""

    root: Path
    copy: Snapshot
    originals: tuple[Snapshot, ...]

    @classmethod
    def copied(cls, original: Path, folder: Path, name: str, others: Sequence[Path] = ()) -> Inputs:
        """Copy `original` to `folder/name`, with what lies behind links, and note how it and the `others` look."""
        originals = tuple(Snapshot.of(root) for root in dict.fromkeys((original, *others)) if root.is_dir())
        copy = Path(shutil.copytree(original, folder / name))
        return cls(copy, Snapshot.of(copy), originals)

    def reached(self, *, thorough: bool = False) -> tuple[str, ...]:
        """Files of the originals that hold something else now, as `folder/name`.

        One whose time alone is another is none, where the copy still shows what it held. `thorough` reads every
        file, for a write that has put the old time back.
        """
        untouched = set(self.copy.stamps) - set(self.copy.touched())
        found = []
        for original in self.originals:
            changed = set(original.touched())
            has_copy = original is self.originals[0]
            for name in sorted({*changed, *(original.stamps if thorough and has_copy else ())}):
                if has_copy and name in untouched and _same_bytes(original.root / name, self.root / name):
                    continue
                if name in changed or has_copy:
                    found.append(f"{original.root.name}/{name}")
        return tuple(found)


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        filecmp.clear_cache()  # it goes by size and time, which is what is doubted here
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _stamps(root: Path) -> Iterator[tuple[str, Stamp]]:
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder, name)
            try:
                state = path.stat()
            except OSError:  # a link to nothing, or gone meanwhile
                continue
            yield path.relative_to(root).as_posix(), (state.st_size, state.st_mtime_ns, state.st_ino)
