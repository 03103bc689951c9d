"""A weight set: the tensors of one component, over however many files, read one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.meter import Meter
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.spans import Span, size_of
from pytest_genmodel.checkpoints.stored_digest import stored_digest
from pytest_genmodel.tensors.threads import in_threads

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StoredTensor:
    """A tensor at rest. `dtype` is spelled as safetensors spells it (F32, BF16, ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path

    @property
    def nbytes(self) -> int:
        """Bytes of the values; a dtype that safetensors does not know is counted as one byte a value."""
        return -(-prod(self.shape) * DTYPE_BITS.get(self.dtype, 8) // 8)


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

            stored, spans = self.tensors[name], self.spans(name)
            is_packed = DTYPE_BITS.get(stored.dtype, 8) < 8  # known by its raw bytes, to torch too
            if spans is None:
                found = digest(self.read(name))
            elif is_packed:
                found = stored_digest("uint8", (size_of(spans),), spans)
            else:
                found = stored_digest(_TORCH_NAMES.get(stored.dtype, stored.dtype), stored.shape, spans)
            if is_packed:
                found = combine([(f"{stored.dtype} {stored.shape}", found)])
            self._digests[name] = found
        return self._digests[name]

    def content_digest(self, progress: Progress = silent) -> str:
        """Give one sha256 for the whole set: independent of files, sharding, order and metadata.

        Args:
            progress: told how many bytes are read.
        """
        from pytest_genmodel.tensors import combine

        sizes = {name: size_of(spans) for name in self.tensors if (spans := self.spans(name)) is not None}
        meter = Meter(progress, "identifying weights", sum(sizes.values()))

        def identify(name: str) -> None:
            self.digest(name)
            meter.add(sizes[name])

        for _ in in_threads(identify, sizes):
            pass
        meter.finish()
        return combine((name, self.digest(name)) for name in self.tensors)


def twice(path: Path, name: str, other: Path) -> DamagedFileError:
    """The error of a name that stands in two files of one set."""
    return DamagedFileError(
        path,
        Damage.INDEX,
        f"tensor {name!r} stands in {other.name} too",
        action="Save the checkpoint again: its shards come from two different saves.",
    )


_TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
_NAMES = {torch_name: name for name, torch_name in _TORCH_NAMES.items()}


def torch_dtype(name: str) -> torch.dtype:
    """Give torch's dtype for a safetensors dtype name; uint8 for those torch cannot hold (sub-byte floats)."""
    import torch

    dtype = getattr(torch, _TORCH_NAMES.get(name, "uint8"), torch.uint8)
    assert isinstance(dtype, torch.dtype)
    return dtype


def spelled(torch_name: str) -> str | None:
    """The safetensors name of torch's dtype `torch_name` ("bfloat16"); None where safetensors has none for it."""
    return _NAMES.get(torch_name)


def dtype_name(dtype: torch.dtype) -> str | None:
    """Give safetensors' name for a dtype of torch; None where it has none."""
    return spelled(str(dtype).removeprefix("torch."))
