"""Weight sets from files: safetensors, torch pickles, and which of the two a set of files is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.pickles import PickledWeights
from pytest_genmodel.checkpoints.placed import Placed, read_placed
from pytest_genmodel.checkpoints.safetensors_header import (
    Header,
    TensorEntry,
    begins_as_header,
    read_header,
)
from pytest_genmodel.checkpoints.spans import Span
from pytest_genmodel.checkpoints.weight_set import StoredTensor, WeightSet, torch_dtype, twice

if TYPE_CHECKING:
    import torch

__all__ = ["PickledWeights", "SafetensorsWeights", "StoredTensor", "WeightSet", "open_weights", "torch_dtype"]


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
                    raise twice(path, name, self._entries[name][0])
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
        """Read the bytes of `name` into memory of its own.

        A sub-byte dtype, which torch cannot hold, comes as its raw bytes.
        """
        entry = self._entries[name][1]
        return read_placed(Placed(entry.dtype, entry.shape, self.spans(name)))


def open_weights(files: tuple[Path, ...]) -> WeightSet:
    """Open `files` (all of one container) as one weight set.

    Raises:
        DamagedFileError: a file is missing, damaged or unsafe.
    """
    for path in files:
        if not _is_there(path):
            raise DamagedFileError(
                path,
                Damage.MISSING_FILE,
                "the file is named and is not there",
                action="Copy the missing file, or save the checkpoint again into an empty folder.",
            )
    if all(path.suffix == ".safetensors" or _is_safetensors(path) for path in files):
        return SafetensorsWeights(files)
    return PickledWeights(files)


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _is_safetensors(path: Path) -> bool:
    """Many a `.ckpt` is one."""
    with path.open("rb") as stream:
        return begins_as_header(stream.read(9))
