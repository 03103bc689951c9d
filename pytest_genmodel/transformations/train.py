"""Train at a stated rate, and see from outside what was done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import DamagedFileError, UnreadableCheckpointError
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.overlay import overlay
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.probing import ProbeWishes
from pytest_genmodel.pipelines.torch_defaults import project_defaults
from pytest_genmodel.training.command import TIMEOUT, Ran, TrainCommand, run_command
from pytest_genmodel.training.dataset import write_dataset
from pytest_genmodel.training.evidence import WrittenState, read_written_state
from pytest_genmodel.training.freshness import not_fresh, weight_files
from pytest_genmodel.training.inputs import Inputs
from pytest_genmodel.training.observer import Observed, observe_optimizers
from pytest_genmodel.training.result import SeveralResultsError, open_result
from pytest_genmodel.training.resuming import KEEP_STATE, RESUME, ResumeArguments, newest_state, takes
from pytest_genmodel.training.trainers import BUILT_IN, Trainer, require_steps, trainer_named


class TrainerError(GenmodelError):
    """The trainer raised; says what."""


@dataclass(frozen=True)
class TrainingRun:
    """One run that is asked for: at rate `lr`, `steps` optimizer steps, everything random decided by `seed`.

    `folder` is an empty folder of this run; `prompt`, `height`, `width` and `frames` are what a command may want to
    know of the probe, `timeout` is the number of seconds that it may take, `echo` is given the lines that it prints.
    `resume` is what an earlier run wrote: this one goes on from a copy of it, a command with `resume_arguments`;
    `keep_state` asks for a state to go on from. `result` says which of the sets of weights that it leaves is meant,
    `others` are folders that it must not reach besides the one it starts from; `thorough` reads them to see that,
    `keep` leaves the copies for who wants to look.
    """

    lr: float
    steps: int
    seed: int
    folder: Path
    prompt: str = ""
    height: int = 480
    width: int = 720
    frames: int = 49
    timeout: float = TIMEOUT
    echo: Callable[[str], None] | None = None
    resume: Path | None = None
    resume_arguments: ResumeArguments | None = None
    keep_state: bool = False
    result: str | None = None
    others: tuple[Path, ...] = ()
    thorough: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Trained:
    """What a training run left: the steps that were seen, and the checkpoint (None: nothing was written).

    `written` is the checkpoint as the trainer wrote it, `checkpoint` the same laid over what went in. `observed` is
    None where nothing of the run could be watched; `state` is what the run's own files say then. `touched` names the
    files of its inputs that the trainer changed, `reached` those of the originals. `output` is the folder that it was
    given to write into, `choices` are the sets of weights there where nothing says which is the result, `stale` says
    why what lies there was not written by the run, `own` whether the process was seen to write what it trained. `lr`
    is the rate that was asked for.
    """

    trainer: str
    observed: Observed | None
    written: Checkpoint | None
    checkpoint: Checkpoint | None
    problem: str | None = None
    ran: Ran | None = None
    touched: tuple[str, ...] = ()
    output: Path | None = None
    reached: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    stale: str | None = None
    own: bool = False
    state: WrittenState | None = None
    lr: float | None = None


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
    if run.resume is None:
        output.mkdir(parents=True)
    else:
        shutil.copytree(run.resume, output)
    earlier, started = _state(output), output.stat().st_mtime_ns
    own = name in BUILT_IN and isinstance(trainer, str)
    inputs = None if own else _copied(base, run)
    root = base.root if inputs is None else inputs.root
    ran: Ran | None = None
    observed: Observed | None
    if isinstance(function, TrainCommand):
        ran = _run_command(function, root, output, run)
        observed, result = ran.observed, output
    else:
        more = {"wishes": _wishes(run)} if own else {}
        observed, result = _call(name, function, root, output, run, more)
    left = Trained(name, observed, None, None, ran=ran, output=output, lr=run.lr)
    if inputs is not None:
        left = replace(left, touched=inputs.copy.touched(), reached=inputs.reached(thorough=run.thorough))
    if observed is None or not observed.steps:
        left = replace(left, state=read_written_state(output, started if run.resume is None else 0))
    if result.resolve() == root.resolve():
        return replace(left, problem="the trainer gave back the checkpoint that went in")
    if run.resume is not None and _state(output) == earlier:
        return replace(left, problem="the run that went on from an earlier one wrote nothing")
    try:
        left = _opened(left, result, pipeline, root, started, run)
    except GenmodelError as error:
        if ran is None or ran.status == 0:
            raise
        left = replace(left, problem=str(error))  # half of a result: that the run failed is what counts
    if inputs is not None and not run.keep and result == output and not _links_into(output, root):
        shutil.rmtree(root)  # a copy of the model for each run is more than most disks hold
    return left


def _opened(
    left: Trained, result: Path, pipeline: Pipeline, root: Path, started: int, run: TrainingRun
) -> Trained:
    """Open what was written, and look whether the run has written it; nothing but `left` where nothing is there."""
    base, observed = pipeline.checkpoint, left.observed
    try:
        written = open_result(result, f"{base.spec} after {left.trainer}", choice=run.result, steps=run.steps)
    except SeveralResultsError as error:
        return replace(left, problem=str(error), choices=error.labels)
    except UnreadableCheckpointError as error:
        return replace(left, problem=str(error))
    parts = _weight_files(written, pipeline.denoisers)
    saves = observed.saves if observed is not None and observed.steps else None
    whys = [not_fresh(files, root, started=started, saves=saves) for files in parts]
    # Of several experts one may be trained alone, and the others put beside it. A run that goes on has old files.
    stale = whys[0] if whys and all(whys) and run.resume is None else None
    own = any((saves or {}).get(str(file.resolve())) for files in parts for file in files)
    whole = overlay(written, base, run.folder) if written.is_partial else written
    return replace(left, written=written, checkpoint=whole, stale=stale, own=own)


def _call(
    name: str, function: Trainer, root: Path, output: Path, run: TrainingRun, more: dict[str, Any]
) -> tuple[Observed, Path]:
    if run.resume is not None and takes(function, RESUME):
        more[RESUME] = newest_state(output)
    if run.keep_state and takes(function, KEEP_STATE):
        more[KEEP_STATE] = True
    defaults = nullcontext() if name in BUILT_IN else project_defaults()
    with observe_optimizers() as observed, defaults:
        try:
            result = function(root, lr=run.lr, steps=run.steps, seed=run.seed, output=output, **more)
        except GenmodelError:
            raise
        except Exception as error:  # a user's trainer may raise anything
            what = f"{type(error).__name__}: {first_line(error)}"
            raise TrainerError(f"the trainer {name} raised {what}") from error
    return observed, Path(result) if result is not None else output


def _wishes(run: TrainingRun) -> ProbeWishes:
    return ProbeWishes.of_training(run.prompt, run.seed, run.width, run.height, run.frames)


def _run_command(command: TrainCommand, root: Path, output: Path, run: TrainingRun) -> Ran:
    values: dict[str, object] = {
        "reference": root,
        "output": output,
        "lr": run.lr,
        "steps": run.steps,
        "seed": run.seed,
        "prompt": run.prompt,
        "height": run.height,
        "width": run.width,
        "frames": run.frames,
    }
    if run.resume is not None and run.resume_arguments is not None:
        values[RESUME] = newest_state(output)
        command = run.resume_arguments.added_to(command)
    if command.needs_dataset:
        size = (run.frames, run.height, run.width)
        values["dataset"] = write_dataset(run.folder / "dataset", trained_at=size)
    return run_command(command.filled(values), work=run.folder, timeout=run.timeout, echo=run.echo)


def _copied(base: Checkpoint, run: TrainingRun) -> Inputs:
    """A copy of what lies behind links too: a trainer that writes into it must not reach the original."""
    name = base.spec.rpartition("/")[2].rpartition(":")[2] or base.root.name
    return Inputs.copied(base.root, run.folder / "inputs", name, run.others)


def _weight_files(written: Checkpoint, denoisers: tuple[str, ...]) -> tuple[tuple[Path, ...], ...]:
    try:
        return weight_files(written, denoisers)
    except DamagedFileError:  # whoever compares the weights says so
        return ()


def _links_into(folder: Path, target: Path) -> bool:
    """Whether a link in `folder` leads into `target`."""
    return any(
        path.is_symlink() and path.resolve().is_relative_to(target.resolve()) for path in folder.rglob("*")
    )


def _state(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file: enough to see that one was written to."""
    return {
        str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }
