"""A file that is written at once: whoever reads sees the old one or the new one.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; folders are made, text is UTF-8.

    A link stays, and the file that it leads to is written. What is no file (`/dev/stdout`, a pipe) takes the content
    as it comes: nothing may be put in its place.

    Raises:
        OSError: it cannot be written there.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    if _is_device(path):
        with path.open("ab", buffering=0) as stream:
            stream.write(data)
        return
    place = path.resolve() if path.is_symlink() else path
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}-{token_hex(4)}")
    try:
        with beside.open("xb") as stream:
            stream.write(data)
        os.replace(beside, place)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def can_be_written(path: Path) -> bool:
    """Whether `write_whole` has a place there, as far as that can be told without writing."""
    if _is_device(path):
        return os.access(path, os.W_OK)
    parent = next((folder for folder in path.resolve().parents if folder.exists()), None)
    return not path.is_dir() and parent is not None and parent.is_dir() and os.access(parent, os.W_OK)


def _is_device(path: Path) -> bool:
    """Whether what is there is no file of its own: a device, a pipe, or what this process has open already."""
    if path.parent == Path("/dev/fd") or path in (Path("/dev/stdout"), Path("/dev/stderr")):
        return True
    return path.exists() and not (path.is_file() or path.is_dir())
