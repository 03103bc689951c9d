"""Train at a stated rate, and see from outside what was done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.overlay import overlay
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.training.command import TIMEOUT, Ran, TrainCommand, run_command
from pytest_genmodel.training.dataset import write_dataset
from pytest_genmodel.training.observer import Observed, observe_optimizers
from pytest_genmodel.training.trainers import BUILT_IN, Trainer, require_steps, trainer_named


class TrainerError(GenmodelError):
    """The trainer raised; says what."""


@dataclass(frozen=True)
class TrainingRun:
    """One run that is asked for: at rate `lr`, `steps` optimizer steps, everything random decided by `seed`.

    `folder` is an empty folder of this run; `prompt` is what a command's `{prompt}` stands for, `timeout` the
    seconds that it may take, `echo` is given the lines that it prints.
    """

    lr: float
    steps: int
    seed: int
    folder: Path
    prompt: str = ""
    timeout: float = TIMEOUT
    echo: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Trained:
    """What a training run left: the steps that were seen, and the checkpoint (None: nothing was written).

    `written` is the checkpoint as the trainer wrote it, `checkpoint` the same laid over what went in. `observed` is
    None where nothing of the run could be watched. `touched` names the files of its inputs that the trainer changed.
    """

    trainer: str
    observed: Observed | None
    written: Checkpoint | None
    checkpoint: Checkpoint | None
    problem: str | None = None
    ran: Ran | None = None
    touched: tuple[str, ...] = field(default=())


def train(pipeline: Pipeline, trainer: str | TrainCommand | Callable[..., Any], run: TrainingRun) -> Trained:
    """Train the pipeline's checkpoint and open what was written.

    A trainer that is not our own works on a copy of the checkpoint, in a folder of the same name (some trainers
    choose the dtype by it).

    Raises:
        TrainerError: the trainer raised.
        BadInputError: no trainer has the name, `steps` is no positive number, or what it wrote does not fit.
        DamagedFileError: what it wrote cannot be read.
    """
    name, function = trainer_named(trainer)
    require_steps(run.steps)
    base = pipeline.checkpoint
    output = run.folder / "trained"
    output.mkdir(parents=True)
    own = name in BUILT_IN and isinstance(trainer, str)
    root = base.root if own else _copied(base, run.folder / "inputs")
    before = {} if own else _state(root)
    ran: Ran | None = None
    observed: Observed | None
    if isinstance(function, TrainCommand):
        ran = _run_command(function, root, output, run)
        observed, result = ran.observed, output
    else:
        observed, result = _call(name, function, root, output, run)
    after = {} if own else _state(root)
    touched = tuple(
        sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    )
    if result.resolve() == root.resolve():
        problem = "the trainer gave back the checkpoint that went in"
        return Trained(name, observed, None, None, problem, ran, touched)
    try:
        written = open_checkpoint(result, f"{base.spec} after {name}")
    except UnreadableCheckpointError as error:
        return Trained(name, observed, None, None, str(error), ran, touched)
    whole = overlay(written, base, run.folder) if written.is_partial else written
    return Trained(name, observed, written, whole, None, ran, touched)


def _call(name: str, function: Trainer, root: Path, output: Path, run: TrainingRun) -> tuple[Observed, Path]:
    with observe_optimizers() as observed:
        try:
            result = function(root, lr=run.lr, steps=run.steps, seed=run.seed, output=output)
        except GenmodelError:
            raise
        except Exception as error:  # a user's trainer may raise anything
            what = f"{type(error).__name__}: {first_line(error)}"
            raise TrainerError(f"the trainer {name} raised {what}") from error
    return observed, Path(result) if result is not None else output


def _run_command(command: TrainCommand, root: Path, output: Path, run: TrainingRun) -> Ran:
    values: dict[str, object] = {
        "reference": root,
        "output": output,
        "lr": run.lr,
        "steps": run.steps,
        "seed": run.seed,
        "prompt": run.prompt,
    }
    if command.needs_dataset:
        values["dataset"] = write_dataset(run.folder / "dataset")
    return run_command(command.filled(values), work=run.folder, timeout=run.timeout, echo=run.echo)


def _copied(base: Checkpoint, folder: Path) -> Path:
    """A copy of what lies behind links too: a trainer that writes into it must not reach the original."""
    name = base.spec.rpartition("/")[2].rpartition(":")[2] or base.root.name
    return Path(shutil.copytree(base.root, folder / name))


def _state(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file: enough to see that one was written to."""
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }
