"""A partial candidate laid over the reference: a whole pipeline folder, made of links, that any loader reads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import INDEX, Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component, read_json
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.weights import PickledWeights, WeightSet
from pytest_genmodel.errors import BadInputError

ENOUGH_NAMES = 0.3
"""Share of a lone file's tensor names that a component of the reference must know to be the one meant."""


def overlay(candidate: Checkpoint, reference: Checkpoint, workdir: Path) -> Checkpoint:
    """Give a whole pipeline: the candidate's parts, and the rest from the reference.

    Writes links; a lone pickle whose tensors lie under a key ("state_dict") is copied without it, as every loader
    looks at the top level.

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
    elif candidate.kind is Kind.WEIGHTS_FILE:
        file = candidate.components[""].file_sets[0].files[0]
        target = reference.components[_component_of(candidate, reference)]
        base = "diffusion_pytorch_model" if target.library == "diffusers" else "model"
        _replace([target.folder / "config.json"], folder / target.name)
        ending = ".safetensors" if file.suffix == ".safetensors" else ".bin"
        name = base if target.library == "diffusers" or ending == ".safetensors" else "pytorch_model"
        _place(candidate.components[""].weights, file, folder / target.name / f"{name}{ending}")
    return replace(
        open_checkpoint(folder, candidate.spec), adapter=candidate.adapter, unread=candidate.unread
    )


def _check_fits(candidate: Checkpoint, reference: Checkpoint, name: str, component: Component) -> None:
    if name not in reference.components:
        raise BadInputError(
            f"{candidate.spec}: the reference {reference.spec} has no {name} to lay it over "
            f"(it has {', '.join(reference.components)})"
        )
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
    values = read_json(index) | {component.name: [component.library, component.class_name]}
    index.unlink()
    index.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _component_of(candidate: Checkpoint, reference: Checkpoint) -> str:
    names = {unwrapped(name) for name in candidate.components[""].weights.tensors}
    shares = {
        name: len(names & set(component.weights.tensors)) / max(1, len(names))
        for name, component in reference.components.items()
        if component.has_weights
    }
    best = max(shares, key=lambda name: shares[name])
    if shares[best] < ENOUGH_NAMES:
        raise BadInputError(
            f"{candidate.spec}: {shares[best]:.0%} of its {len(names)} tensor names are known to the reference's "
            f"{best}, and to no other component more: it is not a part of {reference.spec}"
        )
    return best


def _place(weights: WeightSet, file: Path, target: Path) -> None:
    if isinstance(weights, PickledWeights) and weights.wrapper is not None:
        import torch

        torch.save({name: weights.read(name) for name in weights.tensors}, target)
    else:
        _link(file, target)


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
