"""A partial candidate laid over the reference: a whole pipeline folder, made of links, that any loader reads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import INDEX, Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component, library_name
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.pairing import named_components
from pytest_genmodel.checkpoints.weights import PickledWeights
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.adapters import resolved


def overlay(candidate: Checkpoint, reference: Checkpoint, workdir: Path) -> Checkpoint:
    """Give a whole pipeline: the candidate's parts, and the rest from the reference.

    Writes links; a lone pickle whose tensors lie under a key ("state_dict") is copied without it, as every loader
    looks at the top level. Weights under a trainer's own names stay where they are until something loads them.

    Raises:
        BadInputError: the candidate's part does not fit the reference.
        DamagedFileError: a lone weights file cannot be read, so that nobody knows what it is.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="overlay-", dir=workdir))
    for entry in reference.root.iterdir():
        _link(entry, folder / entry.name)
    if candidate.kind is Kind.COMPONENTS:
        for name, component in candidate.components.items():
            _check_fits(candidate, reference, name, component)
            _replace(component.folder.iterdir(), folder / name)
            if name == "scheduler" and component.class_name != reference.components[name].class_name:
                _name_class(folder / INDEX, component)
    sources: dict[str, Component] = {}
    if candidate.kind is Kind.WEIGHTS:
        for name, component in named_components(candidate, reference).items():
            if name not in reference.components:
                raise _no_place(candidate, reference, name)
            target = reference.components[name]
            _replace([path for path in (target.config_path,) if path], folder / name)
            if component.source is not None:
                sources[name] = component
            else:
                _place(component, target, folder / name)
    whole = open_checkpoint(folder, candidate.spec)
    components = dict(whole.components)
    for name, component in sources.items():
        components[name] = replace(components[name], source=partial(getattr, component, "weights"))
    whole = replace(
        whole,
        components=components,
        unread=candidate.unread,
        written_by=candidate.written_by,
        scripts=candidate.scripts,
    )
    return replace(whole, adapter=resolved(candidate.adapter, whole)) if candidate.adapter else whole


def _no_place(candidate: Checkpoint, reference: Checkpoint, name: str) -> BadInputError:
    return BadInputError(
        f"{candidate.spec}: the reference {reference.spec} has no {name} to lay it over "
        f"(it has {', '.join(reference.components)})"
    )


def _check_fits(candidate: Checkpoint, reference: Checkpoint, name: str, component: Component) -> None:
    if name not in reference.components:
        raise _no_place(candidate, reference, name)
    if not component.has_weights:
        return  # a tokenizer is read by the class that the reference names, a scheduler by its own
    wanted = reference.components[name].class_name
    if component.class_name != wanted:
        raise BadInputError(
            f"{candidate.spec}: its {name} is a {component.class_name}, that of the reference {reference.spec} "
            f"a {wanted}: they are of different families"
        )


def _name_class(index: Path, component: Component) -> None:
    """Write into the whole's index by which class the candidate's component is read."""
    home = component.home.rpartition(".")[2]
    values = read_json(index) | {component.name: [home, component.class_name]}
    index.unlink()
    index.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _place(component: Component, target: Component, folder: Path) -> None:
    """Put a lone file where the library of `target` looks for weights."""
    [file] = component.file_sets[0].files
    container = component.file_sets[0].container
    place, weights = folder / library_name(target.library, container), component.weights
    if isinstance(weights, PickledWeights) and weights.wrapper is not None:
        import torch

        torch.save({name: weights.read(name) for name in weights.tensors}, place)
    else:
        _link(file, place)


def _replace(entries: Iterable[Path], target: Path) -> None:
    if target.is_symlink():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    target.mkdir()
    for entry in entries:
        _link(entry, target / entry.name)


def _link(source: Path, target: Path) -> None:
    source = source.resolve()
    try:
        os.symlink(source, target, target_is_directory=source.is_dir())
    except OSError:  # a system that grants no links
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
