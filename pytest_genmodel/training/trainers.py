"""Trainers by name: the built-in ones, and any function of the same shape."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pytest_genmodel.errors import BadInputError


class Trainer(Protocol):
    """Trains what lies in `reference` and writes a checkpoint under `output`, an empty folder; gives its path.

    `lr` is the rate to use for every step, 0.0 included; `steps` the number of optimizer steps; `seed` decides
    everything random.
    """

    def __call__(self, reference: Path, *, lr: float, steps: int, seed: int, output: Path) -> Path:
        """Train and save."""
        ...


def _built_in() -> Mapping[str, Trainer]:
    from pytest_genmodel.training.full import train_full
    from pytest_genmodel.training.lora import train_lora

    return {"full": train_full, "lora": train_lora}


BUILT_IN = ("full", "lora")


def trainer_named(trainer: str | Callable[..., Any]) -> tuple[str, Trainer]:
    """Give a trainer and what to call it; a function stands for itself.

    Raises:
        BadInputError: no built-in trainer has the name.
    """
    if callable(trainer):
        return getattr(trainer, "__name__", "trainer"), trainer
    if trainer not in BUILT_IN:
        nearest = difflib.get_close_matches(str(trainer), BUILT_IN, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise BadInputError(
            f"no trainer is called {trainer!r}{hint} (built in: {', '.join(BUILT_IN)}; or give a function)"
        )
    return trainer, _built_in()[trainer]


def require_steps(steps: object) -> None:
    """Check a number of training steps.

    Raises:
        BadInputError: it is no whole number, 1 or more.
    """
    if type(steps) is not int or steps < 1:
        raise BadInputError(f"steps={steps!r}: a training run takes at least one step")
