"""A weight set: the tensors of one component, over however many files, read one at a time."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS, Header, TensorEntry, read_header
from pytest_genmodel.checkpoints.same_bytes import Span
from pytest_genmodel.errors import first_line

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StoredTensor:
    """A tensor at rest. `dtype` is spelled as safetensors spells it (F32, BF16, ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path


class WeightSet(ABC):
    """The tensors of one component at rest.

    `tensors` maps names to what is stored under them; `read` gives one tensor on the CPU, in the dtype of the
    file; `digest` identifies a tensor by dtype, shape and bytes. `unexplained` are the stored names for which the
    trainer's names have no counterpart in the model's: they belong to no tensor here, and must not be dropped
    without a word.
    """

    files: tuple[Path, ...]
    metadata: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]
    unexplained: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """Give the tensor `name` on the CPU, in its stored dtype and shape."""

    def spans(self, name: str) -> tuple[Span, ...] | None:
        """Where the bytes of `name` lie: one span after the other, row-major; None where only `read` gives them."""
        return None

    def digest(self, name: str) -> str:
        """Give the sha256 of the tensor `name`; computed once."""
        if name not in self._digests:
            from pytest_genmodel.tensors import combine, digest

            found, stored = digest(self.read(name)), self.tensors[name]
            if DTYPE_BITS.get(stored.dtype, 8) < 8:  # read as raw bytes: dtype and shape are not in them
                found = combine([(f"{stored.dtype} {stored.shape}", found)])
            self._digests[name] = found
        return self._digests[name]

    def content_digest(self) -> str:
        """Give one sha256 for the whole set: independent of files, sharding, order and metadata."""
        from pytest_genmodel.tensors import combine

        return combine((name, self.digest(name)) for name in self.tensors)


class SafetensorsWeights(WeightSet):
    """Tensors of one or more safetensors files.

    Raises:
        DamagedFileError: a file breaks the format, or two shards hold the same name.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        super().__init__()
        self.files = files
        headers: dict[Path, Header] = {path: read_header(path) for path in files}
        self._entries: dict[str, tuple[Path, TensorEntry]] = {}
        metadata: dict[str, str] = {}
        for path, header in headers.items():
            metadata.update(header.metadata)
            for name, entry in header.tensors.items():
                if name in self._entries:
                    raise _twice(path, name, self._entries[name][0])
                self._entries[name] = (path, entry)
        self.metadata = metadata
        self.tensors = {
            name: StoredTensor(name, entry.dtype, entry.shape, path)
            for name, (path, entry) in self._entries.items()
        }

    def spans(self, name: str) -> tuple[Span, ...]:
        """Where the bytes of `name` lie: in one place."""
        path, entry = self._entries[name]
        return (Span(path, entry.begin, entry.end),)

    def read(self, name: str) -> torch.Tensor:
        """Read the bytes of `name` into memory of its own: an mmap would break when the file is cut short.

        A sub-byte dtype, which torch cannot hold, comes as its raw bytes.
        """
        import torch

        path, entry = self._entries[name]
        dtype = torch_dtype(entry.dtype)
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        buffer = bytearray(entry.end - entry.begin)
        with path.open("rb", buffering=0) as stream:
            stream.seek(entry.begin)
            view = memoryview(buffer)
            while view:
                count = stream.readinto(view)
                if not count:
                    raise DamagedFileError(
                        path,
                        Damage.TRUNCATED,
                        f"the file ended inside tensor {name!r} while it was read",
                        action="Something else is writing to this file; judge it when that is done.",
                        offset=stream.tell(),
                    )
                view = view[count:]
        tensor = torch.frombuffer(buffer, dtype=dtype)
        return tensor if DTYPE_BITS[entry.dtype] < 8 else tensor.reshape(entry.shape)


class PickledWeights(WeightSet):
    """Tensors of torch `.bin`/`.pt` files, through torch's restricted unpickler and nothing else.

    `wrapper` is the key under which the tensors lay, where they were not at the top ("state_dict"): no library's
    loader looks under one.

    Raises:
        DamagedFileError: torch is older than 2.10, whose restricted unpickler could be broken out of
            (CVE-2025-32434, CVE-2026-24747), the file is no pickle of plain tensors, a tensor claims more than
            its storage holds, or two files hold the same name.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        super().__init__()
        self.files = files
        self.metadata = {}
        self.wrapper: str | None = None
        self._tensors: dict[str, torch.Tensor] = {}
        tensors: dict[str, StoredTensor] = {}
        for path in files:
            found, wrapper = _load_pickle(path)
            self.wrapper = self.wrapper or wrapper
            for name, tensor in found.items():
                if name in tensors:
                    raise _twice(path, name, tensors[name].file)
                dtype = _safetensors_dtype(tensor.dtype)
                tensors[name] = StoredTensor(name, dtype, tuple(tensor.shape), path)
            self._tensors.update(found)
        self.tensors = tensors

    def read(self, name: str) -> torch.Tensor:
        """Give the (memory-mapped) tensor `name`."""
        return self._tensors[name]


def _twice(path: Path, name: str, other: Path) -> DamagedFileError:
    return DamagedFileError(
        path,
        Damage.INDEX,
        f"tensor {name!r} stands in {other.name} too",
        action="Save the checkpoint again: its shards come from two different saves.",
    )


def open_weights(files: tuple[Path, ...]) -> WeightSet:
    """Open `files` (all of one container) as one weight set.

    Raises:
        DamagedFileError: a file is missing, damaged or unsafe.
    """
    for path in files:
        if not path.is_file():
            raise DamagedFileError(
                path,
                Damage.MISSING_FILE,
                "the file is named and is not there",
                action="Copy the missing file, or save the checkpoint again into an empty folder.",
            )
    if all(path.suffix == ".safetensors" for path in files):
        return SafetensorsWeights(files)
    return PickledWeights(files)


def _load_pickle(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """Give the tensors, and the key under which they lay, None for the top level."""
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 10):
        raise DamagedFileError(
            path,
            Damage.PICKLE,
            f"torch pickles are not read under torch {torch.__version__}: weights_only=True is unsafe there",
            action="Convert the file to safetensors, or upgrade torch to 2.10 or later.",
        )
    if path.stat().st_size == 0:
        raise DamagedFileError(path, Damage.EMPTY, "the file is empty", action="Save the checkpoint again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about pickle protocols; it reads them or refuses
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises whatever the bytes provoke
        reason = first_line(error)
        raise DamagedFileError(
            path,
            Damage.PICKLE,
            f"torch's restricted unpickler refused it: {reason}",
            action="Convert the weights to safetensors where they were trained; no other unpickler is tried.",
        ) from None
    items, wrapper = _items(loaded)
    tensors = {name: value.detach() for name, value in items if isinstance(value, torch.Tensor)}
    if not tensors:
        raise DamagedFileError(
            path,
            Damage.NOT_WEIGHTS,
            f"the pickle holds no named tensors, but {_contents(loaded)}",
            action="Give the file with the model's state dict.",
        )
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = "quantized" if tensor.is_quantized else f"{tensor.layout}, {tensor.device.type}"
            raise DamagedFileError(
                path,
                Damage.PICKLE,
                f"tensor {name!r} is no plain tensor ({kind})",
                action="Save dense tensors from the CPU, best as safetensors.",
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DamagedFileError(
                path,
                Damage.PICKLE,
                f"tensor {name!r} claims {tensor.numel() * tensor.element_size()} bytes "
                f"of a storage of {tensor.untyped_storage().nbytes()}",
                action="Do not load this file; ask for a safetensors export.",
            )
    return tensors, wrapper


def _items(loaded: object) -> tuple[list[tuple[str, object]], str | None]:
    if not isinstance(loaded, Mapping):
        return [], None
    for wrapper in ("state_dict", "module", "model"):
        inner = loaded.get(wrapper)
        if isinstance(inner, Mapping):
            return [(str(name), value) for name, value in inner.items()], wrapper
    return [(str(name), value) for name, value in loaded.items()], None


def _contents(loaded: object) -> str:
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    return ", ".join(repr(str(name))[:40] for name in list(loaded)[:5]) or "nothing"


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


_TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


def torch_dtype(name: str) -> torch.dtype:
    """Give torch's dtype for a safetensors dtype name; uint8 for those torch cannot hold (sub-byte floats)."""
    import torch

    dtype = getattr(torch, _TORCH_NAMES.get(name, "uint8"), torch.uint8)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _safetensors_dtype(dtype: torch.dtype) -> str:
    spelled = str(dtype).removeprefix("torch.")
    return next((name for name, torch_name in _TORCH_NAMES.items() if torch_name == spelled), spelled)
