"""The zip in which torch keeps a pickle and the storages beside it, checked so that two readers see one file.

torch stores every record as it is. What an honest file has no need for (compression, two records of one name, a
path that leads out, a directory that contradicts the records) is refused.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.other_kinds import RELOAD

MAGIC = b"PK\x03\x04"
PICKLE = "data.pkl"
MAX_PICKLE_BYTES = 128 << 20
"""Bytes of the pickle itself, which holds names and shapes: a thousand tensors need a hundred thousand."""
MAX_RECORDS = 1_000_000

_LOCAL = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END_MAGIC = b"PK\x05\x06"
_MOST_BEHIND = 22 + 0xFFFF
"""Bytes in which the end record lies, whatever comment follows it."""
_FULL = 0xFFFFFFFF
_LATER = 0x08
"""The flag of a record whose sizes stand behind it."""


@dataclass(frozen=True)
class Record:
    """Bytes `begin` to `end` of the file."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.begin


def read_archive(path: Path) -> Mapping[str, Record]:
    """Give the records of a torch file by their names, without the folder that they all lie in.

    Raises:
        DamagedFileError: the file is cut short, is a TorchScript program or another zip, or breaks the rules above.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        _check_end(path, stream, size)
        try:
            with zipfile.ZipFile(stream) as archive:
                entries, directory = archive.infolist(), archive.start_dir
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error) as error:
            raise _refusal(path, f"a zip whose directory cannot be read ({error})") from None
        if len(entries) > MAX_RECORDS:
            raise _refusal(path, f"a zip of {len(entries)} records")
        folder = entries[0].filename.partition("/")[0] if entries else ""
        names = [_plain_name(path, entry.filename, folder) for entry in entries]
        _check_names(path, names)
        records = {
            name: _record(path, stream, entry, directory) for name, entry in zip(names, entries, strict=True)
        }
    _check_apart(path, records)
    if records[PICKLE].size > MAX_PICKLE_BYTES:
        raise _refusal(
            path, f"its data.pkl has {records[PICKLE].size} bytes, which is more than names and shapes need"
        )
    return records


def _check_end(path: Path, stream: IO[bytes], size: int) -> None:
    """The end record closes the file: a comment could hold a second directory."""
    stream.seek(max(0, size - _MOST_BEHIND))
    tail = stream.read()
    at = tail.rfind(_END_MAGIC)
    end = tail[at : at + _END.size] if at >= 0 else b""
    if len(end) < _END.size:
        raise DamagedFileError(
            path,
            Damage.TRUNCATED,
            "a torch zip without the directory that ends it: the file is cut short",
            action=RELOAD,
            offset=size,
        )
    behind = len(tail) - at - _END.size
    if behind or _END.unpack(end)[-1]:
        raise _refusal(path, f"{behind} bytes follow the end of the zip", size - behind)
    stream.seek(0)


def _plain_name(path: Path, name: str, folder: str) -> str:
    top, slash, rest = name.partition("/")
    parts = rest.split("/")
    if top != folder or not slash or not all(part not in ("", ".", "..") for part in parts) or "\\" in name:
        raise _refusal(path, f"the zip's record {_short(name)} does not lie in the folder {_short(folder)}")
    return rest


def _record(path: Path, stream: IO[bytes], entry: zipfile.ZipInfo, directory: int) -> Record:
    name, place = _short(entry.filename), entry.header_offset
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise _refusal(path, f"the zip's record {name} is compressed, which torch's never are", place)
    if entry.flag_bits & 0x01:
        raise _refusal(path, f"the zip's record {name} is encrypted", place)
    if not 0 <= place < directory:
        raise _refusal(path, f"the zip's directory says that {name} lies outside the file")
    stream.seek(place)
    head = stream.read(_LOCAL.size)
    if len(head) < _LOCAL.size or not head.startswith(MAGIC):
        raise _refusal(path, f"the zip's directory says that {name} lies where it does not", place)
    _, _, flags, method, _, _, _, packed, unpacked, name_length, extra_length = _LOCAL.unpack(head)
    stored_name = stream.read(name_length)
    sizes = {entry.file_size, _FULL} | ({0} if flags & _LATER else set())
    if method != 0 or packed not in sizes or unpacked not in sizes or not _is_name(stored_name, entry):
        raise _refusal(path, f"the zip's directory and its record {name} contradict each other", place)
    begin = place + _LOCAL.size + name_length + extra_length
    if begin + entry.file_size > directory:
        raise _refusal(path, f"the zip's record {name} runs beyond the records", place)
    return Record(begin, begin + entry.file_size)


def _is_name(stored: bytes, entry: zipfile.ZipInfo) -> bool:
    return stored in (
        entry.orig_filename.encode("utf-8", "replace"),
        entry.orig_filename.encode("cp437", "replace"),
    )


def _check_apart(path: Path, records: Mapping[str, Record]) -> None:
    position = 0
    for name, record in sorted(records.items(), key=lambda item: (item[1].begin, item[1].end)):
        if record.begin < position:
            raise _refusal(path, f"the zip's record {_short(name)} overlaps another", record.begin)
        position = record.end


def _check_names(path: Path, names: list[str]) -> None:
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise DamagedFileError(
            path,
            Damage.PICKLE,
            "a TorchScript archive: it holds a program beside its weights, and is not run",
            action="Save the state dict of the model it was made from, best as safetensors.",
        )
    if PICKLE not in names:
        raise DamagedFileError(
            path,
            Damage.NOT_WEIGHTS,
            "a zip, but none that torch wrote: it has no data.pkl",
            action="Give the file with the model's state dict; unpack the archive if it holds one.",
        )
    spellings: set[str] = set()
    for name in names:
        if name.lower() in spellings:  # torch's reader does not tell capitals from small letters
            raise _refusal(path, f"the record {_short(name)} stands twice in the zip")
        spellings.add(name.lower())
        if name.endswith((".pkl", ".py", ".so")) and name != PICKLE:
            raise _refusal(path, f"the zip holds {_short(name)} beside its data.pkl")


def _short(name: str) -> str:
    return repr(name) if len(name) <= 80 else f"{name[:80]!r}..."


def _refusal(path: Path, what: str, offset: int | None = None) -> DamagedFileError:
    return DamagedFileError(
        path,
        Damage.PICKLE,
        what,
        action="Do not load this file; ask whoever made it for the weights as safetensors.",
        offset=offset,
    )
