"""`.metadata` of a torch distributed checkpoint: which tensors there are, in which chunks, and where these lie.

torch itself unpickles this file without any restriction. Here the pickle is first run on symbols, and then read
with a closed list of names, each of which stands for a class of our own: nothing is imported by name.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.pickles.loading import Inert
from pytest_genmodel.checkpoints.pickles.machine import MalformedPickleError, effects
from pytest_genmodel.checkpoints.pickles.values import Call, Global, described
from pytest_genmodel.checkpoints.spans import Span
from pytest_genmodel.checkpoints.weight_set import spelled

if TYPE_CHECKING:
    from typing import TypeGuard

FILE = ".metadata"
MAX_BYTES = 128 << 20
"""Bytes of the file: some two hundred for each chunk of each tensor."""
MAX_STEPS = 32_000_000
"""Steps of the pickle: a 5B model with its optimizer on 32 ranks has 100,000 chunks, of about 70 steps each."""

_LARGEST = 1 << 62


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor: where in the tensor it begins, its shape, and where it is stored."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    place: Span


@dataclass(frozen=True)
class Chunked:
    """A tensor in chunks. `path` are the keys under which it lay in the trainer's nested dictionary."""

    path: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Index:
    """What `.metadata` says: tensors by key, and the keys of other objects, which are pickles and are not read."""

    tensors: Mapping[str, Chunked]
    objects: tuple[str, ...]


class _Metadata(Inert): ...


class _Tensor(Inert): ...


class _Object(Inert): ...


class _Chunk(Inert): ...


class _Key(Inert): ...


class _Properties(Inert): ...


class _Info(Inert): ...


class _Size(Inert): ...


_MODULE = "torch.distributed.checkpoint.metadata"
_CLASSES: Mapping[str, type[Inert]] = {
    f"{_MODULE}.Metadata": _Metadata,
    f"{_MODULE}.TensorStorageMetadata": _Tensor,
    f"{_MODULE}.BytesStorageMetadata": _Object,
    f"{_MODULE}.ChunkStorageMetadata": _Chunk,
    f"{_MODULE}.MetadataIndex": _Key,
    f"{_MODULE}.TensorProperties": _Properties,
    f"{_MODULE}.StorageMeta": Inert,
    f"{_MODULE}._MEM_FORMAT_ENCODING": Inert,
    "torch.distributed.checkpoint.filesystem._StorageInfo": _Info,
    "torch.Size": _Size,
    "torch.serialization._get_layout": Inert,
    **{
        f"{module}.{kind}Path": Inert
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "Windows")
    },
}
"""Every class that may stand in the file, and what stands for it here."""


class _Reader(pickle.Unpickler):
    """Finds the classes of the list, and dtypes as their names; imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Give what stands for `module.name`."""
        dotted = f"{module}.{name}"
        if _is_dtype(dotted):
            return name
        return _CLASSES[dotted]


def read_metadata(folder: Path) -> Index:
    """Read `.metadata` of `folder`, and check every place that it names against the files.

    Raises:
        DamagedFileError: the file is no such pickle, or would run something (named; nothing was run); a file that
            it names is missing, too short, or not in the folder.
    """
    path = folder / FILE
    size = path.stat().st_size
    if size == 0:
        raise DamagedFileError(path, Damage.EMPTY, "the file is empty", action="Save the checkpoint again.")
    if size > MAX_BYTES:
        raise _refusal(path, f"{size} bytes, which is more than the names and places of tensors need")
    content = path.read_bytes()
    _refuse_foreign(path, content)
    try:
        read = _Reader(io.BytesIO(content)).load()
    except Exception as error:  # the unpickler raises whatever the bytes provoke
        raise _refusal(path, f"not a pickle that torch wrote ({type(error).__name__})") from None
    return _index(path, read)


def _refuse_foreign(path: Path, content: bytes) -> None:
    """Run the pickle on symbols, and refuse what is not on the list."""
    try:
        found = effects(io.BytesIO(content), most=MAX_STEPS)
    except MalformedPickleError as error:
        damage = Damage.TRUNCATED if error.ended else Damage.PICKLE
        raise DamagedFileError(
            path, damage, f"not the pickle that torch writes: {error}", action=_AGAIN, offset=error.offset
        ) from None
    calls = [described(call) for call in found.calls if not _is_known(call)]
    imports = [name for name in found.imports if name not in _CLASSES and not _is_dtype(name)]
    deeds = [
        *(f"call {call}" for call in calls),
        *(f"import {name[:80]}" for name in imports),
        *found.strange,
    ]
    if deeds or found.storages:
        what = ", ".join(list(dict.fromkeys(deeds))[:3]) or "look for a storage"
        raise DamagedFileError(
            path,
            Damage.PICKLE,
            f"not read: it would {what}; torch.distributed.checkpoint would do it",
            action="Do not load this checkpoint with anything: its .metadata holds more than names and places.",
        )


def _is_known(call: Call) -> bool:
    return isinstance(call.function, Global) and call.function.name in _CLASSES


def _is_dtype(dotted: str) -> bool:
    return dotted.startswith("torch.") and spelled(dotted.removeprefix("torch.")) is not None


def _index(path: Path, read: object) -> Index:
    fields = _fields(path, read, _Metadata)
    entries, places = fields.get("state_dict_metadata"), fields.get("storage_data")
    if not isinstance(entries, dict) or not isinstance(places, dict):
        raise _refusal(path, "it lists no tensors or no places")
    paths = fields.get("planner_data")
    paths = paths if isinstance(paths, dict) else {}
    where = _Places(path, places)
    tensors, objects = {}, []
    for key, entry in entries.items():
        if not isinstance(key, str):
            raise _refusal(path, "a key that is no text")
        if isinstance(entry, _Object):
            objects.append(key)
        else:
            tensors[key] = _chunked(path, key, _path_of(key, paths.get(key)), entry, where)
    return Index(tensors, tuple(objects))


def _path_of(key: str, path: object) -> tuple[str, ...]:
    return tuple(map(str, path)) if isinstance(path, tuple) and path else (key,)


def _chunked(path: Path, key: str, keys: tuple[str, ...], entry: object, where: _Places) -> Chunked:
    fields = _fields(path, entry, _Tensor)
    properties, chunks = fields.get("properties"), fields.get("chunks")
    state = properties.state if isinstance(properties, _Properties) else None
    torch_name = state[0] if isinstance(state, tuple) and state else None
    dtype = spelled(torch_name) if isinstance(torch_name, str) else None
    if dtype is None or not isinstance(chunks, list):
        raise _refusal(
            path, f"tensor {key[:200]!r} has no dtype that safetensors knows, or no list of chunks"
        )
    shape = _sizes(path, fields.get("size"))
    found = []
    for chunk in chunks:
        block = _fields(path, chunk, _Chunk)
        offsets = _sizes(path, block.get("offsets"))
        found.append(Chunk(offsets, _sizes(path, block.get("sizes")), where.of(key, offsets)))
    return Chunked(keys, dtype, shape, tuple(found))


class _Places:
    """Where the chunks lie; every file is looked at once."""

    def __init__(self, path: Path, places: dict[Any, Any]) -> None:
        self._path = path
        self._sizes: dict[str, int] = {}
        self._places: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
        for key, info in places.items():
            index, place = _fields(path, key, _Key), _fields(path, info, _Info)
            if index.get("offset") is not None:
                self._places[str(index.get("fqn")), _sizes(path, index["offset"])] = place

    def of(self, key: str, offsets: tuple[int, ...]) -> Span:
        """Give the place of the chunk of `key` at `offsets`."""
        place = self._places.get((key, offsets))
        if place is None:
            raise DamagedFileError(
                self._path,
                Damage.INDEX,
                f"it says nowhere in which file the chunk at {list(offsets)} of {key[:200]!r} lies",
                action=_AGAIN,
            )
        name, begin, length = place.get("relative_path"), place.get("offset"), place.get("length")
        if not isinstance(name, str) or not _is_size(begin) or not _is_size(length):
            raise _refusal(self._path, f"the place of {key[:200]!r} is no file, offset and length")
        if place.get("transform_descriptors"):
            raise _refusal(self._path, f"{name[:80]!r} is packed or encrypted, and is not read here")
        size = self._size(name)
        if begin + length > size:
            raise DamagedFileError(
                self._path.parent / name,
                Damage.TRUNCATED,
                f"it ends before the chunk at {list(offsets)} of {key[:200]!r}, which takes bytes {begin} to "
                f"{begin + length}",
                action="Copy or download the file again, and compare its size with the source.",
                offset=size,
            )
        return Span(self._path.parent / name, begin, begin + length)

    def _size(self, name: str) -> int:
        if name not in self._sizes:
            if Path(name).name != name or "\\" in name or "\0" in name or name in (".", ".."):
                raise DamagedFileError(
                    self._path,
                    Damage.INDEX,
                    f"it names the file {name[:200]!r}, which is none of the folder",
                    action="Do not load this checkpoint: its .metadata names plain files beside it, nothing else.",
                )
            file = self._path.parent / name
            if not file.is_file():
                raise DamagedFileError(
                    file,
                    Damage.MISSING_FILE,
                    f"the file is named in {FILE} and is not there{_rank_of(name)}",
                    action="Copy the files of every rank into the folder, or save the checkpoint again.",
                )
            self._sizes[name] = file.stat().st_size
        return self._sizes[name]


def _rank_of(name: str) -> str:
    rank = name.removeprefix("__").partition("_")[0]
    return f" (what rank {rank} wrote)" if name.startswith("__") and rank.isdigit() else ""


def _fields(path: Path, value: object, kind: type[Inert]) -> dict[str, Any]:
    """The attributes of an object that must be of `kind`."""
    state = value.state if isinstance(value, kind) else None
    if not isinstance(state, dict):
        raise _refusal(path, f"something stands where it should say {kind.__name__.strip('_').lower()}")
    return state


def _sizes(path: Path, value: object) -> tuple[int, ...]:
    arguments = value.arguments if isinstance(value, _Size) else ()
    sizes = arguments[0] if len(arguments) == 1 else None
    if (
        not isinstance(sizes, tuple)
        or not all(map(_is_size, sizes))
        or prod(n or 1 for n in sizes) >= _LARGEST
    ):
        raise _refusal(path, "a size that is no list of whole numbers, or beyond all use")
    return sizes


def _is_size(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _LARGEST


_AGAIN = "Save the checkpoint again with torch.distributed.checkpoint."


def _refusal(path: Path, what: str) -> DamagedFileError:
    return DamagedFileError(path, Damage.PICKLE, what, action=_AGAIN)
