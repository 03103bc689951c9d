"""Two checkpoints taken apart: which parts differ, and each put into the other, without copying weights.

A part is as small as the files let it be: the weights of a component, one key of its configuration, an argument of
the pipeline, an adapter; a whole component where its pieces do not fit the other side's.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.digest import component_digest
from pytest_genmodel.pipelines.effective import differences, effective_arguments, effective_config

MOST_KEYS = 4
"""Differing keys of one configuration that are told apart; more of them are one part."""
WHOLE, WEIGHTS, KEY, ARGUMENT, ADAPTER = "whole", "weights", "key", "argument", "adapter"


@dataclass(frozen=True)
class Part:
    """Something in which two checkpoints differ: `kind` is "whole", "weights", "key", "argument" or "adapter".

    `component` is "" for an argument of the pipeline; `keys` are those of the configuration, or the argument's.
    """

    kind: str
    component: str
    keys: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In words: `vae`, `transformer's weights`, `scheduler: prediction_type`."""
        if self.kind == WHOLE:
            return self.component
        if self.kind == WEIGHTS:
            return f"{self.component}'s weights"
        if self.kind == ADAPTER:
            return "adapter"
        if len(self.keys) > MOST_KEYS:
            return f"{self.component}'s configuration"
        return f"{self.component or 'pipeline'}: {', '.join(self.keys)}"


def differing_parts(ours: Checkpoint, theirs: Checkpoint) -> tuple[Part, ...]:
    """The parts in which two whole checkpoints differ, in the order in which a sample meets them.

    Raises:
        DamagedFileError: a file cannot be read.
        BadInputError: the installed libraries do not know a class.
    """
    found = [part for name in _order(ours, theirs) for part in _of_component(name, ours, theirs)]
    found += [
        Part(ARGUMENT, "", (key,))
        for key in differences(effective_arguments(ours), effective_arguments(theirs))
    ]
    if _adapter(ours) != _adapter(theirs):
        found.append(Part(ADAPTER, ""))
    return tuple(found)


def _order(ours: Checkpoint, theirs: Checkpoint) -> list[str]:
    names = dict.fromkeys((*theirs.components, *ours.components))
    early = ("tokenizer", "text", "image", "feature")
    return sorted(names, key=lambda name: (not name.startswith(early), name == "vae"))


def _of_component(name: str, ours: Checkpoint, theirs: Checkpoint) -> Iterator[Part]:
    if name not in ours.components or name not in theirs.components:
        yield Part(WHOLE, name)
        return
    a, b = ours.components[name], theirs.components[name]
    if component_digest(a) == component_digest(b):
        return
    if a.class_name != b.class_name or a.has_weights != b.has_weights:
        yield Part(WHOLE, name)
        return
    keys = tuple(dict.fromkeys(key.partition(".")[0] for key in _keys(a, b)))
    others = a.has_weights and a.weights.content_digest() != b.weights.content_digest()
    if not a.has_weights and not keys:
        yield Part(WHOLE, name)  # a tokenizer's files
    elif not others or not keys or _shapes(a) == _shapes(b):
        if others:
            yield Part(WEIGHTS, name)
        yield from [Part(KEY, name, keys)] if len(keys) > MOST_KEYS else [Part(KEY, name, (k,)) for k in keys]
    else:
        yield Part(WHOLE, name)


def _keys(a: Component, b: Component) -> Iterator[str]:
    """Configuration keys whose effective values differ; what acts on nothing is no part."""
    if a.config and b.config:
        yield from differences(effective_config(a), effective_config(b))


def _shapes(component: Component) -> Mapping[str, tuple[int, ...]]:
    return {name: entry.shape for name, entry in component.weights.tensors.items()}


def _adapter(checkpoint: Checkpoint) -> str | None:
    adapter = checkpoint.adapter
    return (
        None if adapter is None else f"{adapter.weights.content_digest()}{sorted(adapter.config.items())!r}"
    )


def exchanged(base: Checkpoint, donor: Checkpoint, parts: Collection[Part], workdir: Path) -> Checkpoint:
    """Give `base` with `parts` taken from `donor`.

    Only configuration files are written; weights are links.

    Args:
        base, donor: two whole checkpoints.
        parts: what is taken from the donor.
        workdir: where folders are made.
    """
    components = dict(base.components)
    arguments = dict(base.pipeline_arguments)
    adapter = base.adapter
    by_component: dict[str, list[Part]] = {}
    for part in parts:
        if part.kind == ADAPTER:
            adapter = donor.adapter
        elif part.kind == ARGUMENT:
            [key] = part.keys
            arguments.pop(key, None)
            if key in donor.pipeline_arguments:
                arguments[key] = donor.pipeline_arguments[key]
        else:
            by_component.setdefault(part.component, []).append(part)
    for name, own in by_component.items():
        if own[0].kind == WHOLE:
            components.pop(name, None)
            if name in donor.components:
                components[name] = donor.components[name]
        else:
            components[name] = _mixed(base.components[name], donor.components[name], own, workdir)
    return replace(base, components=components, pipeline_arguments=arguments, adapter=adapter)


def _mixed(base: Component, donor: Component, parts: list[Part], workdir: Path) -> Component:
    """A component with weights or configuration keys of the donor's: a folder of links, and a file of its own."""
    weights = donor if any(part.kind == WEIGHTS for part in parts) else base
    keys = {key for part in parts if part.kind == KEY for key in part.keys}
    config: dict[str, Any] = dict(base.config)
    if keys:
        values = effective_config(donor)
        config |= {key: donor.config.get(key, values.get(key)) for key in keys}
    workdir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="swap-", dir=workdir)) / base.name
    folder.mkdir()
    written = base.config_path or donor.config_path
    for entry in weights.folder.iterdir():
        if entry.is_file() and (written is None or entry.name != written.name):
            _link(entry, folder / entry.name)
    if written is not None:
        (folder / written.name).write_text(json.dumps(config, indent=2), encoding="utf-8")
    return replace(weights, folder=folder, class_name=base.class_name, library=base.library)


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source.resolve(), target)
    except OSError:  # a system that grants no links
        shutil.copyfile(source, target)
