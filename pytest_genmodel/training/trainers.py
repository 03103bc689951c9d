"""Trainers by name: the built-in ones, a function (`package.module:function`), or the user's own command."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pytest_genmodel.errors import BadInputError, first_line
from pytest_genmodel.training.command import TrainCommand


class Trainer(Protocol):
    """Trains what lies in `reference` and writes a checkpoint under `output`, an empty folder; gives its path.

    `lr` is the rate to use for every step, 0.0 included; `steps` the number of optimizer steps; `seed` decides
    everything random. One that names a keyword `resume` can go on from an earlier run: it is given the newest state
    that lies in `output` (a folder `checkpoint-N`, or `output` itself), and takes the steps that are left of `steps`.
    One that names `keep_state` is told by it to save such a state.
    """

    def __call__(self, reference: Path, *, lr: float, steps: int, seed: int, output: Path) -> Path:
        """Train and save."""
        ...


def _built_in() -> Mapping[str, Trainer]:
    from pytest_genmodel.training.full import train_full
    from pytest_genmodel.training.lora import train_lora

    return {"full": train_full, "lora": train_lora}


BUILT_IN = ("full", "lora")


_FUNCTION = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


def trainer_named(trainer: str | TrainCommand | Callable[..., Any]) -> tuple[str, Trainer | TrainCommand]:
    """Give a trainer and what to call it: a name, `package.module:function`, a command with placeholders, a function.

    Raises:
        BadInputError: no built-in trainer has the name, the function is not there, or the command is misspelled.
    """
    if isinstance(trainer, TrainCommand):
        return "command", trainer
    if callable(trainer):
        return getattr(trainer, "__name__", "trainer"), trainer
    if trainer in BUILT_IN:
        return trainer, _built_in()[trainer]
    if "{" in trainer or " " in trainer:
        return "command", TrainCommand.parse(trainer)
    if _FUNCTION.match(trainer):
        return trainer.partition(":")[2], _imported(trainer)
    nearest = difflib.get_close_matches(str(trainer), BUILT_IN, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise BadInputError(
        f"no trainer is called {trainer!r}{hint} (built in: {', '.join(BUILT_IN)}; or package.module:function, or a "
        "command with placeholders)"
    )


def _imported(text: str) -> Trainer:
    module_name, _, name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise BadInputError(
            f"the trainer {text} cannot be imported: {first_line(error)} (is its folder on `pythonpath`?)"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInputError(f"the trainer {text} is not there: {module_name} has no function {name}")
    trainer: Trainer = function
    return trainer


def require_steps(steps: object) -> None:
    """Check a number of training steps.

    Raises:
        BadInputError: it is no whole number, 1 or more.
    """
    if type(steps) is not int or steps < 1:
        raise BadInputError(f"steps={steps!r}: a training run takes at least one step")
