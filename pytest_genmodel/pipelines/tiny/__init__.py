"""Tiny pipelines: genuine diffusers classes in small sizes, offline, for tests and demonstrations.

Importing this package imports neither torch nor diffusers. A name may carry the ``tiny:`` prefix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .folders import write_once
from .registry import PREFIX, TinyPipeline, UnknownTinyPipelineError, entries_by_name, find

__all__ = [
    "PREFIX",
    "TinyPipeline",
    "UnknownTinyPipelineError",
    "build",
    "describe",
    "materialise",
    "names",
    "shipped_folder",
]


def names() -> tuple[str, ...]:
    """Return the known names, sorted, without the ``tiny:`` prefix."""
    return tuple(entries_by_name())


def describe(name: str) -> str:
    """Return one line about `name`; raise `UnknownTinyPipelineError` for an unknown one."""
    return find(name).summary


def build(name: str) -> Any:
    """Return the live diffusers pipeline `name`: float32, on the CPU, every module in eval mode.

    The weights are the same at every call and in every process, and the caller's random state is left alone.
    Raises `UnknownTinyPipelineError` for an unknown name.
    """
    return find(name).build()


def shipped_folder(name: str) -> Path | None:
    """Return the folder of a shipped pipeline, None for one that is built; raise `UnknownTinyPipelineError`."""
    return find(name).shipped


def materialise(name: str, folder: Path) -> Path:
    """Return a diffusers folder that holds `name`. Treat it as read only: copy it to change it.

    A random pipeline is written to ``folder / name`` (without prefix), whole or not at all, unless it is
    complete there already. A trained one is package data: its own folder is returned and
    `folder` is not touched.
    Raises `UnknownTinyPipelineError` for an unknown name and OSError where `folder` cannot be written.
    """
    entry = find(name)
    if entry.shipped is not None:
        return entry.shipped
    return write_once(Path(folder) / entry.name, entry.build, entry.probe)
