"""A throw-away copy of a checkpoint, made of links, that faults are injected into."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from pytest_genmodel.checkpoints.checkpoint import INDEX, Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.faults.stored import Change, Entries, Entry, entries_of, write_entries
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.families.base import Family

LINKED_FROM = 1_000_000
"""Bytes from which on a file is linked: what is smaller is copied."""


class DoesNotApplyError(GenmodelError):
    """A fault cannot be made of this checkpoint: it has no such part. The message says which."""


def clone(source: Path, target: Path) -> Path:
    """Copy a folder to `target`, which must not be there; large files become links, so that it takes no room.

    Nothing may be written into a file of the copy: replace it, as `Copy` does.
    """
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        _place(source, target)
        return target
    target.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            clone(entry, target / entry.name)
        else:
            _place(entry, target / entry.name)
    return target


def _place(source: Path, target: Path) -> None:
    source = source.resolve()
    if source.stat().st_size >= LINKED_FROM:
        try:
            os.symlink(source, target)
            return
        except OSError:  # a system that grants no links
            pass
    shutil.copyfile(source, target)


class Copy:
    """A copy to be damaged.

    `folder` is where it lies, `reference` is the folder that the candidate is compared with (for faults that put
    something of the reference's into the candidate); None where there is none. Its methods replace files and never
    write into one, because a file may be a link to the model that the copy was made of.
    """

    def __init__(self, folder: Path, reference: Path | None = None) -> None:
        self.folder = folder
        self.reference = reference

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint before the fault."""
        return open_checkpoint(self.folder, self.folder.name)

    @cached_property
    def family(self) -> Family:
        """The pipeline's family."""
        return family_of(self.checkpoint)

    @property
    def denoiser(self) -> str:
        """Name of the component that denoises."""
        return self.family.denoiser

    def does_not_apply(self, reason: str) -> NoReturn:
        """Say that the fault cannot be made of this checkpoint."""
        raise DoesNotApplyError(reason)

    def component(self, name: str, *, with_weights: bool = True) -> Component:
        """The component `name`.

        Raises:
            DoesNotApplyError: there is none, or (`with_weights`) its weights are not safetensors.
        """
        if name not in self.checkpoint.components:
            self.does_not_apply(f"the model has no {name}")
        component = self.checkpoint.components[name]
        if with_weights and not (
            component.source is None
            and component.file_sets
            and component.file_sets[0].container == "safetensors"
        ):
            self.does_not_apply(f"the {name} is not stored as safetensors")
        return component

    def path(self, name: str) -> Path:
        """The folder of a component."""
        return self.component(name, with_weights=False).folder

    def tensors(self, name: str) -> Entries:
        """The stored tensors of a component, by name, as the file has them."""
        return entries_of(self.component(name))

    def rewrite(self, name: str, change: Callable[[Entries], Mapping[str, Entry]]) -> None:
        """Replace the tensors of a component by what `change` makes of them; unchanged files stay as they are."""
        component = self.component(name)
        write_entries(component, dict(change(entries_of(component))))

    def change(self, name: str, tensor: str, change: Change, *, shape: tuple[int, ...] | None = None) -> None:
        """Change one tensor of a component."""
        self.rewrite(name, lambda entries: entries | {tensor: entries[tensor].changed(change, shape=shape)})

    def change_all(self, name: str, change: Change, dtype: str | None = None) -> None:
        """Change every floating-point tensor of a component."""
        self.rewrite(
            name,
            lambda entries: {
                tensor: entry.changed(change, dtype=dtype) if entry.is_float else entry
                for tensor, entry in entries.items()
            },
        )

    def rename(self, name: str, change: Callable[[str], str]) -> None:
        """Rename the tensors of a component."""
        self.rewrite(name, lambda entries: {change(old): e for old, e in entries.items()})

    def config(self, name: str) -> Mapping[str, Any]:
        """The stored configuration of a component."""
        return self.component(name, with_weights=False).config

    def set(self, name: str, **values: Any) -> str:
        """Set keys of a component's configuration (`...` takes one out); gives the file's name."""
        path = self.component(name, with_weights=False).config_path
        if path is None:
            self.does_not_apply(f"the {name} has no configuration")
        self.edit_json(path, **values)
        return path.name

    def set_known(self, name: str, key: str, change: Callable[[Any], Any]) -> str:
        """Change a value that the configuration states; gives the location.

        Raises:
            DoesNotApplyError: the component has no such value.
        """
        config = self.config(name)
        if config.get(key) is None:
            self.does_not_apply(f"the {name} states no {key}")
        return f"{self.set(name, **{key: change(config[key])})}:{key}"

    def set_index(self, **values: Any) -> None:
        """Set keys of the model index (`...` takes one out)."""
        self.edit_json(self.folder / INDEX, **values)

    def edit_json(self, path: Path, **values: Any) -> None:
        """Set keys of a JSON file (`...` takes one out)."""
        stored = json.loads(path.read_text(encoding="utf-8")) | values
        self.write(
            path, json.dumps({key: value for key, value in stored.items() if value is not ...}, indent=2)
        )

    def write(self, path: Path, content: str | bytes) -> None:
        """Put a new file in the place of whatever lies there."""
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def own(self, path: Path) -> Path:
        """Make sure that the file's bytes are the copy's own, so that they may be written into."""
        beside = path.with_name(f".{path.name}.own")
        shutil.copyfile(path, beside)
        os.replace(beside, path)
        return path

    def delete(self, path: Path) -> None:
        """Delete a file or a folder of the copy."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def first_file(self, name: str) -> Path:
        """The first weights file of a component."""
        return self.component(name).file_sets[0].files[0]

    def matrices(self, name: str) -> Iterator[str]:
        """Names of the component's matrices, in the order of the file."""
        return (
            n for n, e in self.tensors(name).items() if e.is_float and len(e.shape) == 2 and min(e.shape) > 1
        )

    def matrix(self, name: str | None = None) -> str:
        """A matrix that matters: the first query projection, or the first square matrix, of the denoiser."""
        return _first_pair(self, name or self.denoiser)[0]

    def sibling(self, name: str | None = None) -> str:
        """Another matrix of the shape of `matrix`, beside it."""
        return _first_pair(self, name or self.denoiser)[1]


def _first_pair(copy: Copy, name: str) -> tuple[str, str]:
    entries = copy.tensors(name)
    names = sorted(copy.matrices(name))
    for one in names:
        other = one.replace("to_q.", "to_k.").replace("q_proj.", "k_proj.")
        if other != one and other in entries and entries[other].shape == entries[one].shape:
            return one, other
    for one in names:
        for other in names:
            if other != one and entries[one].shape == entries[other].shape:
                return one, other
    return copy.does_not_apply(f"the {name} has no two matrices of one shape")
