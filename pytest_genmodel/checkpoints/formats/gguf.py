"""GGUF, llama.cpp's container: known by its magic, described, and not read as weights.

Its blocks are quantised: no tensor of it can be bit-equal to the model that it was made of, and a comparison within
a tolerance would hide what this gate looks for. The header is read as far as it is short; nothing in it is believed
that the file has no bytes for.
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from typing import IO, NoReturn

from pytest_genmodel.checkpoints.checkpoint import INDEX, Checkpoint
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError

MAGIC = b"GGUF"
_MOST_BYTES = 32 << 20
_MOST_VALUES = 1_000_000
_MOST_TEXT = 1 << 16

_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TEXT, _ARRAY = 8, 9
_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


def recognises(path: Path) -> bool:
    """Whether `path` is a GGUF file, or a folder in which such files are the only weights."""
    return bool(_files(path))


def read(path: Path, spec: str) -> Checkpoint:
    """Say what the file is.

    Raises:
        UnreadableCheckpointError: always.
    """
    _refuse(_files(path)[0], spec)


def _refuse(file: Path, spec: str) -> NoReturn:
    raise UnreadableCheckpointError(
        f"{spec}: {described(file)}. Quantised blocks are never bit-equal to the model they were made of, so that "
        "nothing can be judged by them: give the checkpoint that it was converted from (a diffusers folder, or its "
        ".safetensors)"
    )


def described(file: Path) -> str:
    """What a GGUF file says of itself, as far as its header can be read: version, architecture, tensor types."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        header = _Header(stream, min(size, _MOST_BYTES))
        try:
            header.read()
        except (struct.error, _UnreadableError):
            header.is_whole = False
    parts = [
        f"version {header.version}" if header.version is not None else "",
        f"{header.architecture!r}" if header.architecture else "",
        f"{header.tensors} tensors" if header.tensors is not None else "",
        ", ".join(f"{count} {name}" for name, count in header.types.most_common(6)),
    ]
    if not header.is_whole:
        parts.append("with a header that cannot be read to its end")
    return f"a GGUF file ({', '.join(filter(None, parts))})"


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if _has_magic(path) else []
    if not path.is_dir():
        return []
    entries = sorted(path.iterdir())
    if any(entry.name == INDEX or (entry / "config.json").is_file() for entry in entries):
        return []
    weights = [
        entry
        for entry in entries
        if entry.is_file() and entry.suffix.lower() in (".gguf", ".safetensors", ".bin", ".pt", ".pth")
    ]
    return weights if weights and all(e.suffix.lower() == ".gguf" and _has_magic(e) for e in weights) else []


def _has_magic(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


class _UnreadableError(Exception):
    """The header asks for more than the file or the limits have."""


class _Header:
    """Reads a header from its beginning; what it has understood is there even when it breaks off."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size
        self._values = 0
        self.version: int | None = None
        self.architecture = ""
        self.tensors: int | None = None
        self.types: Counter[str] = Counter()
        self.is_whole = True

    def read(self) -> None:
        """Read everything before the tensors' bytes."""
        self._bytes(len(MAGIC))
        self.version = self._number("<I")
        if self.version not in (2, 3):
            raise _UnreadableError
        self.tensors, pairs = self._number("<Q"), self._number("<Q")
        for _ in range(self._count(pairs)):
            key = self._text()
            value = self._value(self._number("<I"), 0)
            if key == "general.architecture" and isinstance(value, str):
                self.architecture = value[:60]
        types: Counter[str] = Counter()
        for _ in range(self._count(self.tensors)):
            self._text()
            for _ in range(self._count(self._number("<I"))):
                self._number("<Q")
            number = self._number("<I")
            types[_TYPES.get(number, f"type {number}")] += 1
            self._number("<Q")
        self.types = types

    def _value(self, kind: int, level: int) -> object:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY and level < 4:
            inner, count = self._number("<I"), self._number("<Q")
            if inner in _NUMBERS:
                self._bytes(struct.calcsize(_NUMBERS[inner]) * count)
                return None
            for _ in range(self._count(count)):
                self._value(inner, level + 1)
            return None
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        raise _UnreadableError

    def _count(self, count: int) -> int:
        self._values += count
        if self._values > _MOST_VALUES:
            raise _UnreadableError
        return count

    def _text(self) -> str:
        size = self._number("<Q")
        if size > _MOST_TEXT:
            raise _UnreadableError
        return self._bytes(size).decode("utf-8", "replace")

    def _number(self, form: str) -> int:
        [value] = struct.unpack(form, self._bytes(struct.calcsize(form)))
        return int(value) if isinstance(value, int) else 0

    def _bytes(self, count: int) -> bytes:
        if count > self._left:
            raise _UnreadableError
        self._left -= count
        return self._stream.read(count)
