"""What a training run's own files say of its optimizer, where its processes could not be watched.

Read are accelerate's and transformers' `optimizer.bin` / `optimizer.pt`, DeepSpeed's `*_optim_states.pt`, the
`scheduler.bin` and `trainer_state.json` beside them: rates, numbers of steps, moments. Pickles are read by the
restricted reader alone; a file that it refuses says nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.pickles import load_pickle
from pytest_genmodel.checkpoints.sharded.zero import STUBS
from pytest_genmodel.errors import GenmodelError

MOST_FILES = 64
"""Of one kind that are read: the states of a short run, on many ranks."""
_DEEPEST = 5

_OPTIMIZER = re.compile(r"^optimizer(_\d{1,3})?\.(bin|pt|pth)$|_optim_states\.pt$")
_SCHEDULER = re.compile(r"^(lr_)?scheduler(_\d{1,3})?\.(bin|pt|pth)$")
_TRAINER = "trainer_state.json"
_STEP_KEYS = ("global_step", "step", "global_steps")


@dataclass(frozen=True)
class WrittenState:
    """What the files say: `files` by their names below the output folder, `rates` each with the file it stands in.

    `steps` is the largest number of steps that is told of, `has_state` whether an optimizer's moments lie there,
    `has_moments` whether any of them is not zero, `unread` what was refused and why.
    """

    files: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    steps: int = 0
    has_state: bool = False
    has_moments: bool = False
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def proves_steps(self) -> bool:
        """Whether it shows steps with gradients, and the rates that they were taken at."""
        return self.steps > 0 and bool(self.rates) and self.has_moments


def read_written_state(output: Path, started: int = 0) -> WrittenState | None:
    """Read what the trainer left of its optimizer under `output`; None where there is no such file.

    Args:
        output: the folder that the trainer was given to write into.
        started: when the run began, in nanoseconds of the file system's clock: an older file is of another run.
    """
    reading = _Reading(output)
    for path in sorted(output.rglob("*")):
        with suppress(OSError):
            if path.is_file() and path.stat().st_mtime_ns >= started:
                reading.take(path)
    return reading.result()


class _Reading:
    def __init__(self, output: Path) -> None:
        self._output = output
        self._files: list[str] = []
        self._rates: list[tuple[str, float]] = []
        self._steps = 0
        self._state: list[bool] = []
        self._unread: dict[str, str] = {}

    def take(self, path: Path) -> None:
        """Read `path` if it is one of the files that tell something."""
        if len(self._files) >= MOST_FILES:
            return
        name = path.relative_to(self._output).as_posix()
        try:
            if _OPTIMIZER.search(path.name):
                self._optimizer(name, load_pickle(path, stubs=STUBS, numpy_state=True))
            elif _SCHEDULER.match(path.name):
                self._scheduler(name, load_pickle(path, numpy_state=True))
            elif path.name == _TRAINER:
                self._trainer(name, json.loads(path.read_text(encoding="utf-8")))
        except GenmodelError as error:
            self._unread[name] = str(error)
        except (OSError, ValueError) as error:
            self._unread[name] = f"{type(error).__name__}: {error}"

    def result(self) -> WrittenState | None:
        """All of it together."""
        if not self._files and not self._unread:
            return None
        return WrittenState(
            tuple(self._files),
            tuple(self._rates),
            self._steps,
            bool(self._state),
            any(self._state),
            self._unread,
        )

    def _optimizer(self, name: str, value: object) -> None:
        for groups, state in _optimizers(value, _DEEPEST):
            self._add_rates(name, [group.get("lr") for group in groups if isinstance(group, Mapping)])
            for values in state:
                self._add_steps(values.get("step"))
                moments = [v for v in values.values() if getattr(v, "ndim", 0) > 0]
                self._state += [bool(moment.any()) for moment in moments]
        self._files.append(name)

    def _scheduler(self, name: str, value: object) -> None:
        if isinstance(value, Mapping):
            self._add_rates(name, value.get("_last_lr"))
            self._files.append(name)

    def _trainer(self, name: str, value: object) -> None:
        if not isinstance(value, Mapping):
            return
        for key in _STEP_KEYS:
            self._add_steps(value.get(key))
        log = value.get("log_history")
        entries = log if isinstance(log, list) else []
        self._add_rates(name, [entry.get("learning_rate") for entry in entries if isinstance(entry, Mapping)])
        self._files.append(name)

    def _add_rates(self, name: str, rates: object) -> None:
        for rate in rates if isinstance(rates, Sequence) and not isinstance(rates, str) else ():
            with suppress(TypeError, ValueError):
                if rate is not None:
                    self._rates.append((name, float(rate)))

    def _add_steps(self, steps: Any) -> None:
        with suppress(TypeError, ValueError):
            self._steps = max(self._steps, int(steps))


def _optimizers(value: object, deep: int) -> Iterator[tuple[list[Any], list[Mapping[Any, Any]]]]:
    """Each optimizer's parameter groups and states in nested dictionaries, as `state_dict()` spells them."""
    if isinstance(value, Mapping):
        groups, state = value.get("param_groups"), value.get("state")
        if isinstance(groups, list):
            states = state.values() if isinstance(state, Mapping) else ()
            yield groups, [one for one in states if isinstance(one, Mapping)]
            return
        value = list(value.values())
    if deep and isinstance(value, list):
        for inner in value:
            if isinstance(inner, (Mapping, list)):
                yield from _optimizers(inner, deep - 1)
