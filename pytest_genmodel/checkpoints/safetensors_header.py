"""The header of a safetensors file, checked to the letter of the format.

The format: 8 bytes little-endian header length N, N bytes of JSON that begin with `{`, then the data, in which
the tensors lie side by side without hole or overlap
(https://github.com/huggingface/safetensors#format). The library accepts duplicate tensor names and leading
white space, both of which let two readers see two different models; this parser does not. Nothing is allocated
because a header says so: N is checked against the file's size before it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.other_kinds import RELOAD, refuse_other_kinds

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

_LARGEST = (1 << 63) - 1
"""What a reader that counts in 64 bits can hold; a larger number is a mistake or an attack."""

_MOST_SHOWN = 200
"""Characters of a name, a shape or a dtype that a message repeats: a header may hold millions."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: `begin` and `end` are absolute byte offsets."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds."""

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of `path`.

    Raises:
        DamagedFileError: the file is empty, is something else (a git-LFS pointer, a web page), is shorter than
            its header says, or breaks the format.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(512)
        _refuse_other_kinds(path, size, start)
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES:
            raise _damaged(
                path, Damage.HEADER, f"header length {length} exceeds the format's {MAX_HEADER_BYTES}", 0
            )
        if 8 + length > size:
            raise _damaged(
                path,
                Damage.TRUNCATED,
                f"the header needs {length} bytes and the file ends after {size - 8} of them",
                size,
            )
        stream.seek(8)
        raw = stream.read(length)
    fields = _parse_json(path, raw)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(map(_is_text, metadata.values())):
        raise _damaged(path, Damage.HEADER, "__metadata__ is not a map of strings", 8)
    data_start = 8 + length
    tensors = {name: _entry(path, name, field, data_start) for name, field in fields.items()}
    _check_layout(path, tensors, data_start, size)
    return Header(path, tensors, metadata)


def begins_as_header(start: bytes) -> bool:
    """Whether a file that begins so is a safetensors file, whatever it is called."""
    return start[4:9] == b"\0\0\0\0{"


_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))


def _refuse_other_kinds(path: Path, size: int, start: bytes) -> None:
    refuse_other_kinds(path, size, start)
    # A header of 640 bytes begins like a pickle; what tells them apart is the `{` that follows the length.
    if start.startswith((b"PK\x03\x04", *_PICKLES)) and not begins_as_header(start):
        raise DamagedFileError(
            path,
            Damage.NOT_WEIGHTS,
            "a torch pickle under the name of a safetensors file",
            action="Convert it with safetensors.torch.save_file, or give it its real ending.",
        )
    if size < 8:
        raise _damaged(path, Damage.TRUNCATED, f"{size} bytes, too short for a safetensors header", size)


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise _damaged(path, Damage.HEADER, "the header does not begin with '{'", 8)
    try:
        text = raw.decode("utf-8")
        fields = json.loads(
            text, object_pairs_hook=lambda pairs: _unique(path, pairs), parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise _damaged(path, Damage.HEADER, "the header is not valid UTF-8", 8 + error.start) from None
    except (ValueError, RecursionError) as error:
        # ValueError is json's own, and what a number of thousands of digits gives.
        position = len(text[: getattr(error, "pos", 0)].encode())
        raise _damaged(path, Damage.HEADER, "the header is not valid JSON", 8 + position) from None
    if not isinstance(fields, dict):
        raise _damaged(path, Damage.HEADER, "the header is not a JSON object", 8)
    return fields


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise _damaged(path, Damage.HEADER, f"the name {_short(name)} stands twice in the header", 8)
        if not _is_text(name):
            raise _damaged(path, Damage.HEADER, f"the name {_short(name)} is not valid Unicode", 8)
        fields[name] = value
    return fields


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _is_text(value: object) -> bool:
    """Whether `value` is a string that has an encoding: JSON's escapes can spell half a character."""
    return isinstance(value, str) and not any("\ud800" <= sign <= "\udfff" for sign in value)


def _entry(path: Path, name: str, field: Any, data_start: int) -> TensorEntry:
    try:
        dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
        whole = type(shape) is list and type(offsets) is list and len(offsets) == 2
        whole = whole and all(type(n) is int and 0 <= n <= _LARGEST for n in (*shape, *offsets))
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise _damaged(
            path, Damage.HEADER, f"tensor {_short(name)} lacks a proper dtype, shape or data_offsets", 8
        )
    begin, end = offsets
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _damaged(path, Damage.HEADER, f"tensor {_short(name)} has the unknown dtype {_short(dtype)}", 8)
    if _count(shape) * bits != (end - begin) * 8:
        raise _damaged(
            path,
            Damage.HEADER,
            f"tensor {_short(name)}: {dtype} {_short(shape)} is not {end - begin} bytes",
            8,
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _count(shape: list[int]) -> int:
    """Multiply the axes as a reader with 64-bit numbers does: -1, no size at all, where they overflow."""
    count = 1
    for axis in shape:
        count *= max(axis, 1)
        if count > _LARGEST:
            return -1
    return 0 if 0 in shape else count


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text)} characters)"


def _check_layout(path: Path, tensors: Mapping[str, TensorEntry], data_start: int, size: int) -> None:
    position = data_start
    for entry in sorted(tensors.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            kind = "overlaps its neighbour" if entry.begin < position else "leaves a hole before it"
            raise _damaged(path, Damage.HEADER, f"tensor {_short(entry.name)} {kind}", min(entry.begin, size))
        position = entry.end
    if position > size:
        raise _damaged(
            path,
            Damage.TRUNCATED,
            f"the header promises {position} bytes and the file has {size}: {position - size} are missing",
            size,
        )
    if position < size:
        raise _damaged(path, Damage.HEADER, f"{size - position} bytes follow the last tensor", position)


def _damaged(path: Path, damage: Damage, what: str, offset: int) -> DamagedFileError:
    return DamagedFileError(path, damage, what, action=RELOAD, offset=offset)
