"""The user's own inference, run for a model: by a command in processes of its own, or by a Python function."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_genmodel.errors import BadInputError, GenmodelError, first_line
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.torch_defaults import project_defaults
from pytest_genmodel.pipelines.video_files import Frames, VideoFileError, as_frames, read_file, read_folder
from pytest_genmodel.training.command import TIMEOUT, run_command
from pytest_genmodel.training.complaints import own_lines
from pytest_genmodel.training.sample_command import SampleCommand
from pytest_genmodel.transformations.randomness import other_global_random_state

LINES_SHOWN = 8
"""Of what the command printed last."""
_FIRST_STATE = 70_001


class OwnInferenceError(GenmodelError):
    """The user's inference made no video; says how it ended."""


@dataclass(frozen=True)
class Asked:
    """What is sampled from: `model` is a whole pipeline's folder, `reference` what a LoRA is for, `lora` the LoRA."""

    model: Path
    reference: Path
    lora: Path | None = None


@dataclass
class OwnInference:
    """Somebody's inference: `function(candidate, *, probe, ...)`, or a command. `runs` counts its runs.

    `folder` is an existing folder for its work; `timeout` the seconds that a command may take, `echo` is given the
    lines that it prints.
    """

    how: SampleCommand | Callable[..., Any]
    folder: Path
    timeout: float = TIMEOUT
    echo: Callable[[str], None] | None = None
    runs: int = 0

    @property
    def is_command(self) -> bool:
        """Whether it is a command, and no Python function."""
        return isinstance(self.how, SampleCommand)

    def takes(self, name: str) -> bool:
        """Whether it can be told this: a placeholder that the command names, a parameter that the function has."""
        if isinstance(self.how, SampleCommand):
            return self.how.names(name)
        parameters = inspect.signature(self.how).parameters
        if name in ("frames", "height", "width", "seed", "steps"):
            return "probe" in parameters
        return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def sample(self, asked: Asked, probe: Probe) -> Frames:
        """Sample once. Each run has another global random state than the one before.

        Raises:
            OwnInferenceError: it failed, took too long, or wrote no video that can be read.
            BadInputError: the command cannot be started; a video cannot be read without av.
        """
        self.runs += 1
        work = self.folder / f"run-{self.runs}"
        output = work / "output"
        output.mkdir(parents=True)
        image = work / "image.png"
        probe.picture().save(image)
        values: dict[str, object] = {
            "candidate": asked.model,
            "reference": asked.reference,
            "lora": asked.lora or "",
            "output": output,
            "image": image,
            "prompt": probe.prompt,
            "seed": probe.seed,
            "steps": probe.steps,
            "frames": probe.frames,
            "height": probe.height,
            "width": probe.width,
            "guidance": probe.guidance,
        }
        try:
            if isinstance(self.how, SampleCommand):
                return self._command(self.how, values, work, output)
            return self._function(self.how, asked, probe, output)
        except VideoFileError as error:
            raise OwnInferenceError(str(error)) from error

    def _command(
        self, command: SampleCommand, values: Mapping[str, object], work: Path, output: Path
    ) -> Frames:
        ran = run_command(
            command.filled(values), work=work, timeout=self.timeout, echo=self.echo, what="sampling command"
        )
        if ran.status != 0:
            lines = "\n".join(own_lines(ran.last_lines)[-LINES_SHOWN:])
            raise OwnInferenceError(f"{ran.how_it_ended}; the last lines it printed:\n{lines}")
        return read_folder(output)

    def _function(self, function: Callable[..., Any], asked: Asked, probe: Probe, output: Path) -> Frames:
        given = {"probe": probe, "reference": asked.reference, "lora": asked.lora, "output": output}
        taken = {name: value for name, value in given.items() if self.takes(name)}
        with other_global_random_state(_FIRST_STATE + self.runs), project_defaults():
            try:
                result = function(asked.model, **taken)
            except Exception as error:  # a user's function may raise anything
                raise OwnInferenceError(f"it raised {type(error).__name__}: {first_line(error)}") from error
        if result is None:
            return read_folder(output)
        if isinstance(result, str | Path):
            path = Path(result)
            return read_folder(path) if path.is_dir() else read_file(path)
        return as_frames(result)


def inference_named(sampler: str | Callable[..., Any]) -> SampleCommand | Callable[..., Any]:
    """Give the user's inference: a function, `package.module:function`, or a command with placeholders.

    Raises:
        BadInputError: the function cannot be imported, or the command is misspelled.
    """
    if callable(sampler):
        return sampler
    if "{" in sampler or " " in sampler:
        return SampleCommand.parse(sampler)
    module_name, _, name = sampler.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:  # a user's module may raise anything
        raise BadInputError(
            f"the sampler {sampler} cannot be imported: {first_line(error)} (is its folder on `pythonpath`?)"
        ) from error
    if not callable(function):
        raise BadInputError(f"the sampler {sampler} is not there: {module_name} has no function {name!r}")
    found: Callable[..., Any] = function
    return found
