"""The training state that a run wrote, whatever wrote it: every value of its files by name, sorted by what it is for.

Reads safetensors, torch's pickles (looked through first, no object of theirs is made) and JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.pickles import Inert, load_pickle
from pytest_genmodel.checkpoints.weights import open_weights
from pytest_genmodel.errors import GenmodelError

WEIGHTS, AVERAGE, MOMENTS, SCHEDULE, RANDOM, STEP = (
    "weights",
    "average",
    "moments",
    "schedule",
    "random",
    "step",
)

_KINDS = (
    (AVERAGE, re.compile(r"(^|[/._:-])(ema|average)([/._:-]|$)|shadow_params", re.IGNORECASE)),
    (RANDOM, re.compile(r"random|rng|generator|sampler|(^|/)dl_state", re.IGNORECASE)),
    (SCHEDULE, re.compile(r"sched|param_groups\.\d+\.(initial_)?lr$", re.IGNORECASE)),
    (MOMENTS, re.compile(r"optim|exp_avg|moment|param_groups", re.IGNORECASE)),
    (STEP, re.compile(r"(^|[/._:-])(global_?step|step|steps|iteration|epoch)$", re.IGNORECASE)),
)
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".ckpt"}
_DEEPEST = 12


@dataclass
class StateFiles:
    """Values by `file:name`, each as a digest or a plain value; `unread` are files that could not be read."""

    values: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def differing(self, other: StateFiles) -> dict[str, list[str]]:
        """Names that only one of the two has, or that have other values, by what they are for."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.values.keys() | other.values.keys()):
            if self.values.get(name) != other.values.get(name):
                kind = self.kinds.get(name) or other.kinds[name]
                found.setdefault(kind, []).append(name)
        return found


def read_state_files(folder: Path) -> StateFiles:
    """Read what lies in `folder` (a folder of one step)."""
    state = StateFiles()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = str(file.relative_to(folder))
        try:
            for name, value in _values_of(file):
                full = f"{place}:{name}" if name else place
                kind = _kind(full, file.suffix == ".json")
                if kind is not None:
                    state.values[full], state.kinds[full] = value, kind
        except (GenmodelError, OSError, ValueError):
            state.unread.append(place)
    return state


def averages_in(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The state of each diffusers `EMAModel` that was saved below `folder` as a torch file.

    Gives its file and its values: `shadow_params` are the averaged parameters in the order of the model's own,
    beside them stand `decay`, `optimization_step` and so on.
    """
    for file in sorted(path for path in folder.rglob("*") if path.suffix in _PICKLES and path.is_file()):
        try:
            loaded = load_pickle(file, numpy_state=True)
        except (GenmodelError, OSError, ValueError):
            continue  # not torch's, or not readable: then no average that could be judged
        if isinstance(loaded, Mapping) and isinstance(loaded.get("shadow_params"), (list, tuple)):
            yield file, loaded


def _values_of(file: Path) -> Iterator[tuple[str, str]]:
    if file.suffix == ".safetensors":
        weights = open_weights((file,))
        for name in weights.tensors:
            yield name, weights.digest(name)
    elif file.suffix in _PICKLES:
        yield from _leaves(load_pickle(file, numpy_state=True))
    elif file.suffix == ".json":
        yield from _leaves(json.loads(file.read_text(encoding="utf-8")))


def _leaves(value: Any, name: str = "", deep: int = 0) -> Iterator[tuple[str, str]]:
    if deep > _DEEPEST:
        return
    if isinstance(value, Inert):
        value = [value.arguments, value.state]
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{name}.{key}" if name else str(key), deep + 1)
    elif isinstance(value, (list, tuple)):
        plain = all(isinstance(item, (bool, int, float, str)) for item in value)
        if plain:
            yield name, repr(value)
            return
        for number, item in enumerate(value):
            yield from _leaves(item, f"{name}.{number}", deep + 1)
    elif hasattr(value, "detach"):
        from pytest_genmodel.tensors import digest

        yield name, digest(value.detach())
    elif value is None or isinstance(value, (bool, int, float, str, bytes)):
        yield name, repr(value)


def _kind(name: str, is_json: bool) -> str | None:
    """What a value is for; of a JSON file, which holds times and losses too, only its steps count."""
    kinds = [kind for kind, pattern in _KINDS if pattern.search(name)]
    if is_json and STEP not in kinds:
        return None
    return kinds[0] if kinds else WEIGHTS
