"""The user's own trainer as a command: a template with placeholders, run in processes of its own.

No shell takes part (name one, `sh -c '...'`, where it is wanted). The whole process group is ended when time is
up or the run is broken off, what it prints is bounded, and its optimizers are watched from outside.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.training.observer import Observed
from pytest_genmodel.training.output import OutputReader
from pytest_genmodel.training.processes import GRACE_SECONDS, end_run, ended_with_us
from pytest_genmodel.training.reporting import read_reports

PLACEHOLDERS = {
    "reference": "the folder of the model to start from, a copy",
    "output": "the empty folder to write into",
    "lr": "the learning rate",
    "steps": "the number of optimizer steps",
    "seed": "the seed",
    "dataset": "a tiny video data set",
    "prompt": "the probe's prompt",
    "height": "the probe's height in pixels",
    "width": "the probe's width in pixels",
    "frames": "the probe's number of frames",
}
"""What a command may name in braces, and what stands there when it runs."""

REQUIRED = ("reference", "output", "lr")
"""Without these a command cannot be the run that was asked for."""

TIMEOUT = 1800.0
"""Seconds that a command may take, where nothing else is said."""
OBSERVE = "GENMODEL_OBSERVE"
"""Names, in the environment of a run, the folder for its reports; its value is the mark of the run's processes."""

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_INSIDE = Path(__file__).parent / "inside"


def split_template(text: str, placeholders: Mapping[str, str], what: str) -> tuple[str, ...]:
    """Split a command line with placeholders into arguments; `what` it is called in an error.

    The command will run in a folder of its own: what names a file that lies here (`train.py`, `--config=a.yaml`) is
    made absolute, and so is a path to a folder (`./clips`; a bare word may mean anything).

    Raises:
        BadInputError: quotes do not match, or a placeholder is none of `placeholders`.
    """
    try:
        arguments = tuple(shlex.split(text))
    except ValueError as error:
        raise BadInputError(f"the {what} cannot be split into arguments: {error}") from None
    for name in (name for argument in arguments for name in _FIELD.findall(argument)):
        if name not in placeholders:
            nearest = difflib.get_close_matches(name, placeholders, n=1)
            hint = f"; did you mean {{{nearest[0]}}}?" if nearest else ""
            known = ", ".join(f"{{{placeholder}}}" for placeholder in placeholders)
            raise BadInputError(f"the {what} has an unknown placeholder {{{name}}}{hint} (known: {known})")
    return tuple(map(_from_here, arguments))


def _from_here(argument: str) -> str:
    option, equals, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    if not value or value.startswith("-") or _FIELD.search(value):
        return argument
    path = Path(value)
    try:
        is_meant = path.is_file() or ("/" in value and path.is_dir())
    except OSError:  # a text too long to be a name
        return argument
    return f"{option}{equals}{path.absolute()}" if is_meant else argument


@dataclass(frozen=True)
class TrainCommand:
    """A command line with placeholders, split into arguments."""

    text: str
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> TrainCommand:
        """Split `text` as a POSIX shell would, without running one; `{name}` is a placeholder, other braces stay.

        Raises:
            BadInputError: quotes do not match, a placeholder is unknown, or one that is needed is not there.
        """
        arguments = split_template(text, PLACEHOLDERS, "training command")
        named = [name for argument in arguments for name in _FIELD.findall(argument)]
        for name in REQUIRED:
            if name not in named:
                raise BadInputError(
                    f"the training command does not say where {{{name}}} goes ({PLACEHOLDERS[name]}): without it the "
                    "run is not the one that is asked for"
                )
        return cls(text, arguments)

    @property
    def needs_dataset(self) -> bool:
        """Whether the command names `{dataset}`."""
        return any("{dataset}" in argument for argument in self.arguments)

    def filled(self, values: Mapping[str, object]) -> list[str]:
        """The arguments with every placeholder replaced; a value with spaces stays one argument."""
        return [_FIELD.sub(lambda match: str(values[match[1]]), argument) for argument in self.arguments]


@dataclass(frozen=True)
class Ran:
    """How a command ended: its exit status (None when it was ended for taking too long) and its last lines.

    `observed` is None where no process of the run could be watched (none was a Python that imports torch).
    """

    arguments: tuple[str, ...]
    status: int | None
    seconds: float
    last_lines: tuple[str, ...]
    observed: Observed | None

    @property
    def how_it_ended(self) -> str:
        """In words, for a finding."""
        if self.status is None:
            return f"it was ended after {self.seconds:.0f} s, as it took longer than it may"
        if self.status < 0:
            return f"it was ended by the signal {signal.Signals(-self.status).name}"
        return f"it ended with exit status {self.status}"


def run_command(
    arguments: list[str],
    *,
    work: Path,
    timeout: float,
    threads: int = 1,
    echo: Callable[[str], None] | None = None,
    what: str = "training command",
) -> Ran:
    """Run a command to its end, offline and with fixed threads, in a process group of its own.

    Args:
        arguments: the program and its arguments; no shell takes part.
        work: an existing folder of this run: its working directory is made in it, and the reports of its optimizers.
        timeout: seconds after which the group is ended.
        threads: OMP_NUM_THREADS of the run.
        echo: is given each line as it comes.
        what: what the command is called in an error.

    Raises:
        BadInputError: the program does not exist or cannot be started.
    """
    folder, reports = work / "cwd", work / "observed"
    folder.mkdir()
    reports.mkdir()
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=_environment(reports, threads),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"the {what} does not start: {arguments[0]}: {reason}") from None
    assert process.stdout is not None
    reader = OutputReader(process.stdout, echo)
    thread = threading.Thread(target=reader.run, daemon=True)
    thread.start()
    status: int | None = None
    mark = f"{OBSERVE}={reports}"
    try:
        with ended_with_us(process, mark):
            status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        pass
    finally:
        end_run(process, mark)  # workers that outlive their leader too, and all on Ctrl-C
        thread.join(GRACE_SECONDS)
    return Ran(tuple(arguments), status, time.monotonic() - start, reader.last_lines, read_reports(reports))


def _environment(reports: Path, threads: int) -> dict[str, str]:
    inherited = os.environ.get("PYTHONPATH")
    # relative to where pytest was started, as the files that the command names
    known = [os.path.abspath(entry) for entry in inherited.split(os.pathsep)] if inherited else []
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_INSIDE), *known]),
        "PYTHONUNBUFFERED": "1",
        OBSERVE: str(reports),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
    }
