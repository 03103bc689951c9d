"""Train at a stated rate, and see from outside what was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.opening import UnreadableCheckpointError, open_checkpoint
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.overlay import overlay
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.training.observer import Observed, observe_optimizers
from pytest_genmodel.training.trainers import require_steps, trainer_named


class TrainerError(GenmodelError):
    """The trainer raised; says what."""


@dataclass(frozen=True)
class Trained:
    """What a training run left: the steps that were seen, and the checkpoint (None: nothing was written).

    `written` is the checkpoint as the trainer wrote it, `checkpoint` the same laid over what went in.
    """

    trainer: str
    observed: Observed
    written: Checkpoint | None
    checkpoint: Checkpoint | None
    problem: str | None = None


def train(
    pipeline: Pipeline, trainer: str | Callable[..., Any], *, lr: float, steps: int, seed: int, folder: Path
) -> Trained:
    """Train the pipeline's checkpoint at rate `lr` and open what was written under `folder`.

    Raises:
        TrainerError: the trainer raised.
        BadInputError: no trainer has the name, `steps` is no positive number, or what it wrote does not fit.
        DamagedFileError: what it wrote cannot be read.
    """
    name, function = trainer_named(trainer)
    require_steps(steps)
    output = folder / "trained"
    output.mkdir(parents=True)
    base = pipeline.checkpoint
    with observe_optimizers() as observed:
        try:
            result = function(base.root, lr=lr, steps=steps, seed=seed, output=output)
        except GenmodelError:
            raise
        except Exception as error:  # a user's trainer may raise anything
            what = f"{type(error).__name__}: {first_line(error)}"
            raise TrainerError(f"the trainer {name} raised {what}") from error
    path = Path(result) if result is not None else output
    if path.resolve() == base.root.resolve():
        return Trained(name, observed, None, None, "the trainer gave back the checkpoint that went in")
    try:
        written = open_checkpoint(path, f"{base.spec} after {name}")
    except UnreadableCheckpointError as error:
        return Trained(name, observed, None, None, str(error))
    whole = overlay(written, base, folder) if written.is_partial else written
    return Trained(name, observed, written, whole)
