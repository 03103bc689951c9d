"""The shortest sequence of neutral steps that breaks a model, from a longer one that does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from pytest_genmodel.transformations.known import Step
from pytest_genmodel.transformations.sequences import BrokenModelError, NeutralModel


def shortened(error: BrokenModelError) -> BrokenModelError:
    """Leave out every step that is not needed: of what remains, none can be missed, nor any two.

    Each shorter sequence is tried on a new model; those that make no sense (fusing what is not there) are not.
    """
    best = error
    while (found := _shorter(best)) is not None:
        best = found
    return best


def _shorter(error: BrokenModelError) -> BrokenModelError | None:
    """Leave out one of the steps, or two (fusing and unfusing); None where the model survives each such sequence."""
    count = len(error.steps) - 1  # the last step is the one that broke it
    for left_out in (*combinations(range(count), 1), *combinations(range(count), 2)):
        steps = [step for place, step in enumerate(error.steps) if place not in left_out]
        if makes_sense(steps) and (found := broken_by(error.spec, steps)) is not None:
            return found
    return None


def broken_by(spec: str, steps: Sequence[Step]) -> BrokenModelError | None:
    """Do the steps on a new model, and give what breaks it; None where it survives."""
    model = NeutralModel(spec)
    try:
        for name, arguments in steps:
            getattr(model, name)(**arguments)
    except BrokenModelError as error:
        return error
    return None


def makes_sense(steps: Sequence[Step]) -> bool:
    """Whether each step has what it works on: an adapter that is there, or is not, or is fused."""
    worn = fused = False
    for name, _ in steps:
        if name == "add_adapter" and worn:
            return False
        if name in ("set_weight", "disable", "enable", "fuse", "unload") and not worn:
            return False
        if (name == "fuse" and fused) or (name == "unfuse" and not fused):
            return False
        worn = (worn or name == "add_adapter") and name != "unload"
        fused = (fused or name == "fuse") and name not in ("unfuse", "unload")
    return True
