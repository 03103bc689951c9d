"""The texts in a torch pickle, to tell whose file it is: opcodes are read, and nothing is built or imported."""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from pathlib import Path

_MOST_BYTES = 32 << 20
"""More of a pickle is not looked at: the names of the largest models take two or three megabytes."""
_LEGACY_STREAMS = 5
"""A file of torch before 1.6 is this many pickles, one after the other, and then the bytes of the tensors."""


def texts_in(path: Path) -> frozenset[str]:
    """Give every text of the pickle in the torch file `path`; none where it is no such file, or a damaged one.

    Tensor names are among them. They are no proof of what the file holds: what is read is judged when it is read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
            if start == b"PK\x03\x04":
                return _texts(io.BytesIO(_pickle_in_zip(path)), 1)
            if start[:1] == b"\x80":
                stream.seek(0)
                return _texts(io.BytesIO(stream.read(_MOST_BYTES)), _LEGACY_STREAMS)
    except Exception:  # zipfile and its unpackers raise whatever the bytes provoke
        pass
    return frozenset()


def _pickle_in_zip(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if name is None:
            return b""
        with archive.open(name) as member:
            return member.read(_MOST_BYTES)


def _texts(stream: io.BytesIO, most_pickles: int) -> frozenset[str]:
    found: set[str] = set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in what may be no text at all
            for _ in range(most_pickles):
                for opcode, argument, _place in pickletools.genops(stream):
                    if "UNICODE" in opcode.name and isinstance(argument, str):
                        found.add(argument)
    except Exception:  # pickletools raises whatever the bytes provoke; what was read until then is kept
        pass
    return frozenset(found)
