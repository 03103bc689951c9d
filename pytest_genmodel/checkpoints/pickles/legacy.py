"""The older torch file: five pickles one after the other, then the storages' bytes."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, cast

from pytest_genmodel.checkpoints.pickles.machine import Effects, MalformedPickleError, effects

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


class Bounded:
    """A stream that never reads, or makes room for, more than is left of the file."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size
        self._size = size

    def read(self, count: int) -> bytes:
        """Read at most `count` bytes."""
        found = self._stream.read(min(count, self._left))
        self._left -= len(found)
        return found

    def readline(self) -> bytes:
        """Read to the end of the line."""
        found = self._stream.readline(self._left)
        self._left -= len(found)
        return found

    def tell(self) -> int:
        """Bytes read."""
        return self._size - self._left


def legacy_effects(path: Path) -> tuple[Effects, bool]:
    """What all pickles of the file would do together, and whether it is a torch file at all.

    A plain pickle, which torch did not write, is looked through as far as its first object.

    Raises:
        MalformedPickleError: no pickle, or one that claims more storages than the file has bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        bounded = cast(IO[Any], Bounded(stream, size))
        found = effects(bounded)
        if found.result != MAGIC_NUMBER:
            return found, False
        for _ in ("protocol", "system", "object", "keys of the storages"):
            effects(bounded, found)
        left = size - bounded.tell()
    claimed = sum(8 + storage.size for storage in found.storages.values())
    if claimed > left:
        raise MalformedPickleError(
            f"its storages need {claimed} bytes and {left} follow the pickles", size, ended=True
        )
    return found, True
