"""How a trainer is told to go on from an earlier run: arguments for a command, a keyword for a function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.training.command import PLACEHOLDERS, TrainCommand, split_template

RESUME = "resume"
"""The placeholder, and the keyword: the newest state that the earlier run saved."""
KEEP_STATE = "keep_state"
"""The keyword by which a function is asked to save a training state; one that always does need not take it."""

_STEP = re.compile(
    r"^(?:(?:[a-z]+[_-])*(?:checkpoint|ckpt|step|epoch|iter|iteration|save|state)s?)?[_=-]?(?P<step>\d{1,18})\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ResumeArguments:
    """Arguments that a command gets when its run goes on from an earlier one."""

    text: str
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> ResumeArguments:
        """Split `text` as `TrainCommand.parse` does; `{resume}` is the newest saved state.

        Raises:
            BadInputError: quotes do not match, or a placeholder is unknown.
        """
        known = {**PLACEHOLDERS, RESUME: "the newest state that the earlier run saved"}
        arguments = split_template(text, known, "list of resume arguments")
        if not arguments:
            raise BadInputError("the resume arguments are empty")
        return cls(text, arguments)

    def added_to(self, command: TrainCommand) -> TrainCommand:
        """The command with these arguments behind its own."""
        return TrainCommand(f"{command.text} {self.text}", (*command.arguments, *self.arguments))


def newest_state(output: Path) -> Path:
    """The folder of the last step below `output` (`checkpoint-20`), or `output` itself where there is none."""
    steps = step_folders(output)
    return steps[-1] if steps else output


def step_folders(output: Path) -> list[Path]:
    """Folders of `output` that are named after a step, by its number."""
    found = [(int(match["step"]), path) for path in output.iterdir() if (match := _STEP.match(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def takes(function: Callable[..., Any], keyword: str) -> bool:
    """Whether a function names `keyword` among its parameters; `**kwargs` might swallow it, and does not count."""
    try:
        return keyword in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
