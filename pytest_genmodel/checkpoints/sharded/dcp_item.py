"""One tensor in a `.distcp` file: a small torch zip of its own, somewhere in the file.

Its pickle is run on symbols only: nothing is imported, and torch has no part in it. What is left is where the
bytes of the tensor lie.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, cast

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.pickles.machine import Effects, MalformedPickleError, effects
from pytest_genmodel.checkpoints.pickles.values import Call, Global, Storage, Tuple, described
from pytest_genmodel.checkpoints.placed import Placed, is_row_major
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.spans import Span
from pytest_genmodel.checkpoints.weight_set import spelled

if TYPE_CHECKING:
    from typing import TypeGuard

MAX_PICKLE_BYTES = 1 << 20
"""Bytes of a pickle that describes one tensor; an honest one takes a few hundred."""

_LOCAL = struct.Struct("<4s5H3I2H")
_DTYPE_OF_STORAGE = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64",
}  # fmt: skip
_ALLOWED = frozenset(
    (
        *(f"torch.{name}Storage" for name in _DTYPE_OF_STORAGE),
        *("torch.storage.UntypedStorage", "torch.UntypedStorage", "collections.OrderedDict"),
        *(
            "torch._utils._rebuild_tensor_v2",
            "torch._utils._rebuild_tensor_v3",
            "torch._utils._rebuild_parameter",
        ),
    )
)


def read_item(place: Span) -> Placed:
    """Find the tensor that the bytes `place` of a `.distcp` file hold.

    Raises:
        DamagedFileError: they are no torch zip of one tensor, would run something, or claim more than they have.
    """
    try:
        with place.path.open("rb") as stream:
            part = cast(IO[bytes], _Part(stream, place))
            with zipfile.ZipFile(part) as archive:
                entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            pickled = _record(place, part, entries, "data.pkl")
            if pickled.size > MAX_PICKLE_BYTES:
                raise _refusal(place, f"its data.pkl has {pickled.size} bytes")
            order = _record(place, part, entries, "byteorder") if "byteorder" in entries else None
            if order is not None and _read(part, place, order) != b"little":
                raise _refusal(place, "its numbers are stored big end first, which is not read here")
            found = effects(io.BytesIO(_read(part, place, pickled)))
            placed = _tensor(place, found, lambda key: _record(place, part, entries, f"data/{key}"))
    except MalformedPickleError as error:
        raise _refusal(place, f"not a pickle of a tensor: {error}") from None
    except (
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
        OverflowError,
        struct.error,
        OSError,
    ) as error:
        raise DamagedFileError(
            place.path,
            Damage.TRUNCATED,
            f"no torch zip lies where .metadata says ({error})",
            action="Copy or download the file again, and compare its size and checksum with the source.",
            offset=place.begin,
        ) from None
    return placed


def _tensor(place: Span, found: Effects, record: Callable[[str], Span]) -> Placed:
    foreign = [name for name in found.imports if name not in _ALLOWED and not _is_dtype(name)]
    if foreign or found.strange:
        deed = f"import {foreign[0][:80]}" if foreign else found.strange[0]
        raise _refusal(place, f"not read: it would {deed}")
    call = found.result
    if _function(call) == "torch._utils._rebuild_parameter" and isinstance(call, Call):
        arguments = call.arguments.items if isinstance(call.arguments, Tuple) else ()
        call = arguments[0] if arguments else None
    function = _function(call)
    arguments = call.arguments.items if isinstance(call, Call) and isinstance(call.arguments, Tuple) else ()
    if (
        function not in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
        or len(arguments) < 6
    ):
        raise _refusal(place, f"no tensor, but {described(found.result)}")
    storage, offset, shape, stride = arguments[0], arguments[1], _sizes(arguments[2]), _sizes(arguments[3])
    if not isinstance(storage, Storage) or not _is_size(offset) or shape is None or stride is None:
        raise _refusal(place, "a tensor without storage or shape")
    dtype = _dtype(found, arguments)
    if dtype is None or len(shape) != len(stride):
        raise _refusal(place, "a tensor of a dtype that safetensors does not know, or of no proper strides")
    return _placed(place, record(storage.key), storage, dtype, offset, shape, stride)


def _placed(
    place: Span,
    record: Span,
    storage: Storage,
    dtype: str,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
) -> Placed:
    size = DTYPE_BITS[dtype] // 8
    count = 1
    for axis in shape:
        count *= axis
    last = (
        0
        if count == 0
        else 1 + offset + sum((axis - 1) * step for axis, step in zip(shape, stride, strict=True))
    )
    if storage.size > record.size or last * size > storage.size or count * size > storage.size:
        claimed = max(storage.size, last * size, count * size)
        raise _refusal(place, f"its tensor claims {claimed} bytes of a storage of {record.size}")
    if is_row_major(shape, stride):
        begin = record.begin + offset * size
        return Placed(dtype, shape, (Span(place.path, begin, begin + count * size),) if count else ())
    span = Span(place.path, record.begin + offset * size, record.begin + last * size)
    return Placed(dtype, shape, (span,), stride)


def _record(place: Span, part: IO[bytes], entries: dict[str, zipfile.ZipInfo], name: str) -> Span:
    """Where in the file the bytes of a record lie."""
    entry = entries.get(name)
    if entry is None:
        raise _refusal(place, f"its zip has no {name}")
    part.seek(entry.header_offset)
    head = part.read(_LOCAL.size)
    if len(head) < _LOCAL.size or not head.startswith(b"PK\x03\x04"):
        raise _refusal(place, f"the zip's directory says that {name} lies where it does not")
    _, _, _, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack(head)
    begin = place.begin + entry.header_offset + _LOCAL.size + name_length + extra_length
    if method != zipfile.ZIP_STORED or entry.compress_type != zipfile.ZIP_STORED:
        raise _refusal(place, f"the zip's record {name} is compressed, which torch's never are")
    if part.read(name_length) != entry.orig_filename.encode("utf-8", "replace"):
        raise _refusal(place, f"the zip's directory and its record {name} contradict each other")
    if begin + entry.file_size > place.end:
        raise _refusal(place, f"the zip's record {name} runs beyond the zip")
    return Span(place.path, begin, begin + entry.file_size)


def _read(part: IO[bytes], place: Span, record: Span) -> bytes:
    part.seek(record.begin - place.begin)
    return part.read(record.size)


class _Part(io.RawIOBase):
    """A stretch of an open file, as a file of its own."""

    def __init__(self, stream: IO[bytes], place: Span) -> None:
        self._stream, self._place, self._at = stream, place, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._place.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._place.size - self._at))
        self._stream.seek(self._place.begin + self._at)
        found = self._stream.read(count)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def _function(value: object) -> str:
    return value.function.name if isinstance(value, Call) and isinstance(value.function, Global) else ""


def _is_dtype(name: str) -> bool:
    return name.startswith("torch.") and spelled(name.removeprefix("torch.")) is not None


def _dtype(found: Effects, arguments: tuple[object, ...]) -> str | None:
    """The storage's class says it, or for dtypes that have no class of their own an argument."""
    if len(arguments) > 6 and isinstance(arguments[6], Global):
        return spelled(arguments[6].name.removeprefix("torch."))
    storages = [name for name in found.imports if name.endswith("Storage")]
    torch_name = (
        _DTYPE_OF_STORAGE.get(storages[0][len("torch.") : -len("Storage")]) if len(storages) == 1 else None
    )
    return spelled(torch_name) if torch_name else None


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 62


def _sizes(value: object) -> tuple[int, ...] | None:
    items = value.items if isinstance(value, Tuple) else (None,)
    return cast(tuple[int, ...], items) if all(map(_is_size, items)) else None


def _refusal(place: Span, what: str) -> DamagedFileError:
    return DamagedFileError(
        place.path,
        Damage.PICKLE,
        f"one of its tensors: {what}",
        action="Do not load this checkpoint; save it again with torch.distributed.checkpoint.",
        offset=place.begin,
    )
