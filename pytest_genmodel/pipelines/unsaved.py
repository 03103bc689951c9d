"""What was set on a live component and is in no file: a schedule's shift, a decoder's tiles."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_genmodel.pipelines.effective import schedule_of
from pytest_genmodel.pipelines.library import quiet

PLAIN = (bool, int, float, str, tuple)
RUN_TIME = (
    "use_slicing",
    "use_tiling",
    "use_framewise_encoding",
    "use_framewise_decoding",
    "tile_",
    "num_latent_frames_",
)
"""Beginnings of the names of what a VAE is told at run time, and stores nowhere."""


@dataclass(frozen=True)
class Unsaved:
    """A setting of a live component that its saved copy does not have.

    `changes_results` is off for what only says in which pieces a result is computed.
    """

    name: str
    live: Any
    reloaded: Any
    changes_results: bool = True


def unsaved_settings(live: Any, reloaded: Any, steps: int) -> Iterator[Unsaved]:
    """Compare a live component with its reloaded copy beyond weights and configuration.

    Schedulers: what they walk in `steps` steps as they stand, and attributes that stand for a field of the
    configuration. Models: the settings of `RUN_TIME`. Nothing is changed; the state of a run is no setting.
    """
    if hasattr(live, "set_timesteps"):
        yield from _scheduler(live, reloaded, steps)
        return
    ours, theirs = _plain(live), _plain(reloaded)
    for name in sorted(ours.keys() & theirs.keys()):
        if name.startswith(RUN_TIME) and ours[name] != theirs[name]:
            yield Unsaved(name, ours[name], theirs[name], changes_results=False)


def _scheduler(live: Any, reloaded: Any, steps: int) -> Iterator[Unsaved]:
    fields = set(inspect.signature(type(live).__init__).parameters)
    ours, theirs = _plain(live), _plain(reloaded)
    found = False
    for name in sorted(ours.keys() & theirs.keys()):
        if name.strip("_") in fields and ours[name] != theirs[name]:
            found = True
            yield Unsaved(name.strip("_"), ours[name], theirs[name])
    if found:
        return
    import torch

    with quiet():
        before, after = (schedule_of(copy.deepcopy(scheduler), steps) for scheduler in (live, reloaded))
    for name, array in before.items():
        if name in after and not torch.equal(array, after[name]):
            yield Unsaved(name, _first(array), _first(after[name]))
            return


def _first(array: Any) -> list[float]:
    return [round(float(value), 6) for value in array[:3]]


def _plain(part: Any) -> Mapping[str, Any]:
    return {name: value for name, value in vars(part).items() if isinstance(value, PLAIN)}
