"""The scheduler by which a trainer adds noise, where the pipeline samples by another."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

_TWINS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def training_scheduler(scheduler: Any, class_name: str) -> Any:
    """Give the scheduler itself, or the one that trainers make of its configuration; always the same for one object.

    Solvers made for sampling (DPM-Solver, UniPC, Euler, Heun) have no `get_velocity`, or add noise at the timesteps
    of a run only. Trainers load the class of the objective from the same folder, and so does this.

    Args:
        scheduler: a pipeline's, of diffusers.
        class_name: the scheduler of diffusers by which the family is trained.
    """
    if hasattr(scheduler, "get_velocity") and not hasattr(scheduler, "sigmas"):
        return scheduler
    if scheduler not in _TWINS:
        import diffusers

        _TWINS[scheduler] = getattr(diffusers, class_name).from_config(scheduler.config)
    return _TWINS[scheduler]
