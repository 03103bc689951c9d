"""What the package knows of its tiny pipelines: names, one line each, and how to get them.

A family is one module beside this one with a module-level ``PIPELINES`` tuple; nothing else is touched.
Family modules are read to learn their names, so none of them may import torch or diffusers at module level.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_genmodel.errors import BadInputError

PREFIX = "tiny:"


class UnknownTinyPipelineError(BadInputError):
    """No tiny pipeline has this name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        nearest = difflib.get_close_matches(_bare(name).lower(), known, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        super().__init__(f"no tiny pipeline is named {name!r}.{hint} Known: {', '.join(known)}")
        self.name = name
        self.known = known
        self.nearest = nearest[0] if nearest else None


@dataclass(frozen=True)
class TinyPipeline:
    """One entry: `name` without the ``tiny:`` prefix, `summary` in one line, and its source.

    `build` makes the live pipeline. `shipped` is the folder of a trained model whose weights are package
    data; None means that the pipeline is random and is written on demand, with `probe` beside it as ``probe.json``:
    the size, frames and so on to ask of it, where its configuration does not say them.
    """

    name: str
    summary: str
    build: Callable[[], Any]
    shipped: Path | None = None
    probe: Mapping[str, Any] = field(default_factory=dict)


def find(name: str) -> TinyPipeline:
    """Return the entry for `name`, with or without ``tiny:``; raise `UnknownTinyPipelineError` otherwise."""
    entries = entries_by_name()
    try:
        return entries[_bare(name)]
    except KeyError:
        raise UnknownTinyPipelineError(name, tuple(entries)) from None


@functools.cache
def entries_by_name() -> dict[str, TinyPipeline]:
    """Return every entry by name, sorted by name."""
    package = importlib.import_module(__package__ or "")
    entries: dict[str, TinyPipeline] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        declared = getattr(importlib.import_module(f"{package.__name__}.{module}"), "PIPELINES", ())
        for entry in declared:
            if entry.name in entries:
                raise RuntimeError(f"two tiny pipelines are named {entry.name!r}")
            entries[entry.name] = entry
    return dict(sorted(entries.items()))


def _bare(name: str) -> str:
    return name.removeprefix(PREFIX)
