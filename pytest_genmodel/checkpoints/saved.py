"""A walk through a trainer's output folder: where in it a complete set of weights lies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_genmodel.checkpoints.alpha import PEFT_FILES
from pytest_genmodel.checkpoints.checkpoint import INDEX
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.formats import (
    FORMATS,
    Format,
    component_folders,
    diffusers_pipeline,
    lora_adapter,
    weights_file,
)
from pytest_genmodel.checkpoints.natural_order import natural_order

DEEPEST = 2
"""Folders between the top and a set, steps not counted (`model_weights/000200` is one deep)."""

_EMA = re.compile(r"^(?:(?P<before>.+?)[_.-])?ema(?:[_.-](?P<behind>.+))?\Z", re.IGNORECASE)
_STEP = re.compile(
    r"^(?:(?:[a-z]+[_-])*(?:checkpoint|ckpt|step|epoch|iter|iteration|save)s?)?[_=-]?(?P<step>\d{1,18})\Z",
    re.IGNORECASE,
)
_STEP_OF_FILE = re.compile(r"^.+?[_-](?:step|epoch|iter)?[_=-]?(?P<step>\d{1,18})\Z", re.IGNORECASE)
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class Saved:
    """A set of weights as it was found.

    `place` is the folder of its step below the top ("" at the top), `name` what it is called there; `is_whole` says
    that the library's own rules make it the only thing that its folder can mean.
    """

    place: str
    name: str
    path: Path
    what: str
    step: int | None
    is_ema: bool
    group: str
    is_whole: bool = False
    folders: tuple[Path, ...] = ()


def saved_in(root: Path) -> list[Saved]:
    """Find every set under `root`; those of a folder come before those of the folders in it."""
    return list(_walk(root, "", None, False, DEEPEST))


def pointer_of(folder: Path) -> str | None:
    """What the file `latest` of SAT and DeepSpeed names, None where there is none."""
    try:
        text = (folder / "latest").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if text and Path(text).name == text else None


def without_ema(name: str) -> str | None:
    """The name with the mark of a running average taken out (`transformer_ema`: transformer), None without mark."""
    match = _EMA.match(name)
    return "-".join(filter(None, (match["before"], match["behind"]))) if match else None


def _walk(folder: Path, place: str, step: int | None, is_ema: bool, deep: int) -> Iterator[Saved]:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    entries.sort(key=lambda path: natural_order(path.name))
    children = [path for path in entries if path.is_dir() and not _is_second_name(path)]
    found = list(_whole(folder)) or list(_parts(folder))
    known = bool(found)  # what lies beside what a library reads is no second result, unless it is an average
    loose = list(_loose(folder, only_ema=known))
    found += [(path.stem, path, "weights file", False, ()) for path, number in loose if number is None]
    inner, steps, containers = _sorted(children)
    found += [
        (child.name, child, what, False, ())
        for child, what in inner
        if not known or without_ema(child.name) is not None
    ]
    found += _averages(folder, children)
    for name, path, what, whole, folders in found:
        average = is_ema or (not whole and without_ema(name) is not None)
        yield Saved(place, name, path, what, step, average, _group(place), whole, folders)
    for path, number in loose:
        if number is not None:
            at = _below(place, path.stem)
            average = without_ema(path.stem) is not None
            yield Saved(at, path.stem, path, "weights file", number, average, _group(at))
    for child, number in steps:
        average = is_ema or without_ema(child.name) is not None
        yield from _walk_child(child, place, number, average, deep)
    if deep:
        for child in containers:
            average = is_ema or without_ema(child.name) is not None
            yield from _walk_child(child, place, step, average, deep - 1)


def _walk_child(folder: Path, place: str, step: int | None, is_ema: bool, deep: int) -> Iterator[Saved]:
    try:
        yield from _walk(folder, _below(place, folder.name), step, is_ema, deep)
    except OSError:  # a folder that may not be listed holds nothing that could be named
        return


_Found = tuple[str, Path, str, bool, tuple[Path, ...]]
"""Name, path, what it is, whether it is all that its folder can mean, component folders."""


def _whole(folder: Path) -> Iterator[_Found]:
    """What the folder itself is, when it is a pipeline or one component."""
    if (folder / INDEX).is_file():
        yield "pipeline", folder, "diffusers pipeline", True, ()
    elif component := _component(folder):
        yield component.name, folder, component.class_name, True, ()


def _parts(folder: Path) -> Iterator[_Found]:
    """What lies in the folder by itself: a LoRA, components, or what another format reads."""
    if lora_adapter.recognises(folder):
        yield "lora", folder, "LoRA", False, ()
    models = [name for name in component_folders.COMPONENT_NAMES if _component(folder / name)]
    if models:
        averages = any(
            without_ema(path.name) in component_folders.COMPONENT_NAMES for path in folder.iterdir()
        )
        kept = tuple(folder / name for name in (*models, *_configured(folder))) if averages else ()
        yield "+".join(models), folder, ", ".join(models), False, kept
    if pointer_of(folder) is None and not models and (what := _other_format(folder)):
        yield what, folder, what, False, ()


def _configured(folder: Path) -> list[str]:
    return [name for name in component_folders.WITHOUT_WEIGHTS if (folder / name).is_dir()]


def _averages(folder: Path, children: list[Path]) -> list[_Found]:
    """The averages of named components (`transformer_ema/`), which belong together."""
    folders = tuple(
        child
        for child in children
        if without_ema(child.name) in component_folders.COMPONENT_NAMES and _component(child)
    )
    if not folders:
        return []
    return [("ema", folder, ", ".join(child.name for child in folders), False, folders)]


def _sorted(children: list[Path]) -> tuple[list[tuple[Path, str]], list[tuple[Path, int]], list[Path]]:
    """Tell sets under a name of their own (`model_ema/`) from the folders of steps and those that hold others."""
    known = {*component_folders.COMPONENT_NAMES, *component_folders.WITHOUT_WEIGHTS}
    inner, steps, containers = [], [], []
    for child in children:
        name = without_ema(child.name)
        bare = child.name if name is None else name
        if bare in known:
            continue
        if match := _STEP.match(bare):
            steps.append((child, int(match["step"])))
        elif component := _component(child):
            inner.append((child, component.class_name))
        elif pointer_of(child) is None and (what := _other_format(child)):
            inner.append((child, what))
        else:
            containers.append(child)
    return inner, steps, containers


def _loose(folder: Path, only_ema: bool) -> Iterator[tuple[Path, int | None]]:
    """Weights files of the folder itself, each with its step where its name ends in one.

    A number is a step only where a file without one stands beside it or where several are numbered alike.
    """
    lora = {lora_adapter.DIFFUSERS_NAME, lora_adapter.DIFFUSERS_PICKLE, *PEFT_FILES}
    files = [
        path
        for path in Component("", folder, "", "").unread_files
        if path.suffix in weights_file.SUFFIXES and path.name not in lora and not _SHARD.search(path.name)
    ]
    if only_ema:
        files = [path for path in files if without_ema(path.stem) is not None]
    for path in files:
        match = _STEP_OF_FILE.match(path.stem)
        yield path, int(match["step"]) if match and len(files) > 1 else None


def _component(folder: Path) -> Component | None:
    """The component that the folder is, None where it is none or holds no weights."""
    try:
        if not component_folders.is_component(folder):
            return None
        component = component_folders.component_of(folder)
        return component if component.has_weights else None
    except (DamagedFileError, OSError):  # whoever opens it says so
        return None


def _other_format(folder: Path) -> str | None:
    """Which of the formats without configuration reads the folder (SAT, DeepSpeed ...), None where none does."""
    ours = (diffusers_pipeline, lora_adapter, component_folders, weights_file)
    for module in FORMATS:
        if module not in ours and _recognised(module, folder):
            return getattr(module, "__name__", "").rpartition(".")[2].replace("_", " ")
    return None


def _recognised(module: Format, folder: Path) -> bool:
    try:
        return module.recognises(folder)
    except DamagedFileError:
        return True
    except OSError:
        return False


def _is_second_name(path: Path) -> bool:
    """Whether a link gives another name to a folder beside it (`latest` -> `checkpoint-200`), or leads back up."""
    if not path.is_symlink():
        return False
    target, here = path.resolve(), path.parent.resolve()
    return target.parent == here or target == here or target in here.parents


def _below(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def _group(place: str) -> str:
    return "/".join(part if (bare := without_ema(part)) is None else bare for part in place.split("/"))
