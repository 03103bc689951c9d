"""Tensors at rest, to be written anew with some of them changed: one at a time, and only the files that change."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.weights import StoredTensor, WeightSet
from pytest_genmodel.checkpoints.writing import write_safetensors

if TYPE_CHECKING:
    import torch

Change = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class Entry:
    """A tensor that will be written: its dtype (as safetensors spells it), its shape, and how to get its values.

    `file` is where it will be written, `touched` says that it is not what lies there now.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    read: Callable[[], torch.Tensor]
    touched: bool = False

    def changed(
        self, change: Change, *, dtype: str | None = None, shape: tuple[int, ...] | None = None
    ) -> Entry:
        """The tensor after `change`; say which dtype and shape that gives where they are not the same."""
        read = self.read
        return replace(
            self,
            dtype=dtype or self.dtype,
            shape=self.shape if shape is None else shape,
            read=lambda: change(read()),
            touched=True,
        )

    @property
    def is_float(self) -> bool:
        """Whether the values are floating-point numbers of at least 16 bits."""
        return self.dtype in ("F64", "F32", "F16", "BF16")


Entries = dict[str, Entry]


class _Edited(WeightSet):
    """A weight set of entries."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        super().__init__()
        self._entries = entries
        self.files = tuple({entry.file for entry in entries.values()})
        self.metadata = {}
        self.tensors = {name: StoredTensor(name, e.dtype, e.shape, e.file) for name, e in entries.items()}

    def read(self, name: str) -> torch.Tensor:
        """Read or make one tensor."""
        return self._entries[name].read()


def entries_of(component: Component) -> Entries:
    """The tensors of a component as they lie there."""
    weights = component.weights
    return {
        name: Entry(stored.dtype, stored.shape, stored.file, lambda name=name: weights.read(name))  # type: ignore[misc]
        for name, stored in weights.tensors.items()
    }


def write_entries(component: Component, entries: Entries) -> None:
    """Write the files of `component` that `entries` changes, and its index if it has one.

    A file is replaced, never written into: what else shares its bytes keeps them.
    """
    before = entries_of(component)
    for file in component.file_sets[0].files:
        old = {name for name, entry in before.items() if entry.file == file}
        new = {name: entry for name, entry in entries.items() if entry.file == file}
        if new.keys() != old or any(entry.touched for entry in new.values()):
            write_safetensors(file, _Edited(new))
    index = component.file_sets[0].index
    if index is not None:
        stored = json.loads(index.read_text(encoding="utf-8"))
        stored["weight_map"] = {name: entry.file.name for name, entry in sorted(entries.items())}
        stored.get("metadata", {}).pop("total_size", None)
        index.unlink()
        index.write_text(json.dumps(stored), encoding="utf-8")


def weight_set(entries: Mapping[str, Entry]) -> WeightSet:
    """Entries as a weight set, for the writer."""
    return _Edited(entries)
