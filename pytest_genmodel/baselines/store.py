"""The store of a baseline: named entries of plain values and small tensors, in one file.

The file is a safetensors file: no pickle, and the header is checked to the letter of the format. Entries stand as
JSON in its metadata, tensors under `ENTRY#TENSOR`. Equal content gives equal bytes, so a baseline can be committed.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import BadInputError, first_line
from pytest_genmodel.whole_file import write_whole

if TYPE_CHECKING:
    import torch

FORMAT = 1
"""The format's version; a reader refuses any other."""
KINDS = ("reference", "golden", "accepted")
"""What the first part of an entry's name may be: what stands in for the reference, golden values of tests, and
findings that somebody has accepted."""
MOST_BYTES = 256 << 20
"""A file beyond this is no baseline: a few megabytes stand in for the largest models."""
_MARK = "genmodel_baseline"
_ENTRIES = "entries"


class BaselineError(BadInputError):
    """A baseline cannot be read, written or used; one line that names the file and what to do."""


@dataclass(frozen=True)
class Blob:
    """A tensor at rest: `dtype` as safetensors spells it (F32, U8), `data` the row-major bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Blob:
        """Take a copy of a tensor of any device.

        Raises:
            BadInputError: safetensors has no name for its dtype.
        """
        from pytest_genmodel.checkpoints.weight_set import dtype_name
        from pytest_genmodel.tensors.blocks import raw_bytes

        spelled = dtype_name(tensor.dtype)
        if spelled is None:
            raise BadInputError(f"a tensor of {tensor.dtype} cannot be stored in a baseline")
        held = tensor.detach().cpu().contiguous()
        return cls(spelled, tuple(held.shape), bytes(raw_bytes(held)) if held.numel() else b"")

    def tensor(self) -> torch.Tensor:
        """The tensor, in memory of its own."""
        import torch

        from pytest_genmodel.checkpoints.weight_set import torch_dtype

        if not self.data:
            return torch.empty(self.shape, dtype=torch_dtype(self.dtype))
        return torch.frombuffer(bytearray(self.data), dtype=torch_dtype(self.dtype)).reshape(self.shape)


@dataclass(frozen=True)
class Entry:
    """What stands under one name: `value` is plain JSON, `tensors` are small."""

    value: Any = None
    tensors: Mapping[str, Blob] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(len(blob.data) for blob in self.tensors.values())


@dataclass(frozen=True)
class Changed:
    """One entry that an update would change: `how` is added, changed or removed."""

    name: str
    how: str
    before: Entry | None
    after: Entry | None


class Store:
    """The entries of one baseline, in memory; nothing reaches the disk before `write`.

    Names are `KIND/REST`, with a kind of `KINDS`: `reference/transformer`, `golden/tests/test_a.py::test_b/latents`,
    `accepted/...`. Every writer changes entries of its own kind and leaves the others.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry] | None = None) -> None:
        self.path = path
        self._entries: dict[str, Entry] = {}
        for name, entry in (entries or {}).items():
            self.put(name, entry)

    @classmethod
    def open(cls, path: str | Path, *, must_exist: bool = False) -> Store:
        """Read the baseline at `path`; an empty one where there is no file.

        Raises:
            BaselineError: the file is none of these or damaged, or is not there and must be.
        """
        path = Path(path)
        if not path.exists():
            if must_exist:
                raise BaselineError(f"{path}: there is no such baseline")
            return cls(path)
        return cls(path, _read(path))

    def names(self, kind: str | None = None) -> tuple[str, ...]:
        """Names of the entries (of one kind), sorted."""
        prefix = "" if kind is None else f"{kind}/"
        return tuple(sorted(name for name in self._entries if name.startswith(prefix)))

    def get(self, name: str) -> Entry | None:
        """The entry `name`; None where there is none."""
        return self._entries.get(name)

    def put(self, name: str, entry: Entry) -> None:
        """Put `entry` under `name`, in place of what was there.

        Raises:
            BadInputError: the name has no kind of `KINDS`, or the value is no plain JSON.
        """
        kind, slash, rest = name.partition("/")
        if kind not in KINDS or not slash or not rest:
            raise BadInputError(
                f"{name!r} is no name of a baseline's entry: KIND/NAME, of {', '.join(KINDS)}"
            )
        if bad := next((key for key in entry.tensors if "#" in key or not key), None):
            raise BadInputError(f"{bad!r} is no name of an entry's tensor")
        try:
            json.dumps(entry.value, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise BadInputError(f"{name}: its value is no plain JSON ({error})") from None
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Take the entry `name` out; nothing where there is none."""
        self._entries.pop(name, None)

    def copy(self) -> Store:
        """A store of the same entries, to be changed without changing this one."""
        return Store(self.path, self._entries)

    def diff(self, other: Store) -> list[Changed]:
        """What makes `other` of this one, by name."""
        found = []
        for name in sorted(self._entries.keys() | other._entries.keys()):
            before, after = self.get(name), other.get(name)
            if before != after:
                how = "added" if before is None else "removed" if after is None else "changed"
                found.append(Changed(name, how, before, after))
        return found

    def to_bytes(self) -> bytes:
        """The file's content: the same for the same entries."""
        tensors = {
            f"{name}#{key}": blob
            for name, entry in self._entries.items()
            for key, blob in entry.tensors.items()
        }
        listed = {
            name: {"value": entry.value, "tensors": sorted(entry.tensors)}
            for name, entry in self._entries.items()
        }
        header: dict[str, Any] = {
            "__metadata__": {
                _MARK: str(FORMAT),
                _ENTRIES: json.dumps(listed, sort_keys=True, allow_nan=False, separators=(",", ":")),
            }
        }
        position, parts = 0, []
        # The widest dtype first, as the format's own writer does: every tensor is aligned to its elements.
        for key in sorted(tensors, key=lambda key: (-_width(tensors[key]), key)):
            blob = tensors[key]
            end = position + len(blob.data)
            header[key] = {"dtype": blob.dtype, "shape": list(blob.shape), "data_offsets": [position, end]}
            parts.append(blob.data)
            position = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return b"".join((struct.pack("<Q", len(text)), text, *parts))

    def write(self) -> int:
        """Write the file whole or not at all, and give its size in bytes; folders are made.

        Raises:
            BaselineError: it cannot be written there, or is too large for a baseline.
        """
        content = self.to_bytes()
        if len(content) > MOST_BYTES:
            raise BaselineError(
                f"{self.path}: the baseline would take {len(content) >> 20} MiB, more than the {MOST_BYTES >> 20} "
                "that one may have; keep fewer or smaller golden values"
            )
        try:
            write_whole(self.path, content)
        except OSError as error:
            raise BaselineError(f"{self.path}: cannot be written ({error.strerror or error})") from None
        return len(content)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


def sent(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Entries as pytest-xdist carries them: plain values and bytes."""
    return {
        name: {
            "value": entry.value,
            "tensors": {
                key: [blob.dtype, list(blob.shape), blob.data] for key, blob in entry.tensors.items()
            },
        }
        for name, entry in entries.items()
    }


def received(given: Mapping[str, Any]) -> dict[str, Entry]:
    """What `sent` made, as entries again."""
    return {
        name: Entry(
            one["value"],
            {key: Blob(dtype, tuple(shape), data) for key, (dtype, shape, data) in one["tensors"].items()},
        )
        for name, one in given.items()
    }


def _width(blob: Blob) -> int:
    return len(blob.data) // max(1, prod(blob.shape))


def _read(path: Path) -> dict[str, Entry]:
    from pytest_genmodel.checkpoints.damage import DamagedFileError
    from pytest_genmodel.checkpoints.safetensors_header import read_header

    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise BaselineError(f"{path}: {size >> 20} MiB, which no baseline takes")
        header = read_header(path)
        content = path.read_bytes()
    except DamagedFileError as error:
        raise BaselineError(f"{path}: no baseline of pytest-genmodel ({first_line(error)})") from None
    except OSError as error:
        raise BaselineError(f"{path}: cannot be read ({error.strerror or error})") from None
    version = header.metadata.get(_MARK)
    if version is None:
        raise BaselineError(f"{path}: a safetensors file, but no baseline of pytest-genmodel")
    if version != str(FORMAT):
        raise BaselineError(
            f"{path}: a baseline of format {version[:20]}, and this version reads format {FORMAT}; make it again"
        )
    blobs = {
        name: Blob(tensor.dtype, tensor.shape, content[tensor.begin : tensor.end])
        for name, tensor in header.tensors.items()
    }
    return _entries(path, header.metadata.get(_ENTRIES, ""), blobs)


def _entries(path: Path, text: str, blobs: dict[str, Blob]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    try:
        for name, fields in json.loads(text).items():
            tensors = {key: blobs.pop(f"{name}#{key}") for key in fields["tensors"]}
            found[name] = Entry(fields["value"], tensors)
        Store(path, found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadInputError):
        raise BaselineError(
            f"{path}: its list of entries is damaged; restore the file, or make it again"
        ) from None
    if blobs:
        raise BaselineError(
            f"{path}: holds tensors that belong to no entry; restore the file, or make it again"
        )
    return found
