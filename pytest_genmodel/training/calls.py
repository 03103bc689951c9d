"""The denoiser's calls in a training step, recorded in whatever process trains.

In this process the class is watched while the trainer runs. A command's processes are told by two environment
variables which class to watch and where to leave what they saw: a safetensors file for each call, with its arguments
in the file's metadata.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_genmodel.pipelines.recording import Argument, Call, Recorded, Recorder, watch_class

CLASS, FOLDER = "GENMODEL_CALLS_OF", "GENMODEL_CALLS"
"""Environment variables: `module:Class` of the denoiser, and the folder to write calls into."""
MOST_CALLS = 8
"""Training calls that are kept of each process."""


@contextmanager
def training_calls(cls: Any, folder: Path, most: int = MOST_CALLS) -> Iterator[list[Call]]:
    """Record the first training calls of models of class `cls`: of this process, and of commands that it starts.

    Args:
        cls: the denoiser's class.
        folder: an empty folder that commands write their calls into.
        most: calls that are kept of each process.

    Yields:
        The calls; those of commands are there when the context has ended.
    """
    recorder = Recorder(most, training_only=True)
    before = {name: os.environ.get(name) for name in (CLASS, FOLDER)}
    os.environ.update({CLASS: f"{cls.__module__}:{cls.__qualname__}", FOLDER: str(folder)})
    restore = watch_class(cls, recorder)
    try:
        yield recorder.calls
    finally:
        restore()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        recorder.calls += read_calls(folder)


def report_calls(module: Any) -> None:
    """Watch the class that the environment names in `module`, and write its calls into the folder named there.

    Called inside the trainer's process, when `module` has been imported.
    """
    cls = getattr(module, os.environ[CLASS].partition(":")[2])
    folder = Path(os.environ[FOLDER])
    watch_class(cls, Recorder(MOST_CALLS, training_only=True, on_call=lambda call: _leave(call, folder)))


def _leave(call: Call, folder: Path) -> None:
    """Write one call; a training run must not fail because it cannot be written."""
    try:
        write_call(call, folder / f"{os.getpid()}-{call.number}.safetensors")
    except Exception as error:
        (folder / f"{os.getpid()}.error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")


def write_call(call: Call, file: Path) -> None:
    """Write a call into a safetensors file: all at once, or not at all."""
    from safetensors.torch import save_file

    header = {
        path: _described(value) if isinstance(value, Recorded) else value
        for path, value in call.arguments.items()
    }
    tensors = {path: _storable(value.values) for path, value in call.tensors.items()}
    metadata = {"model": call.model, "number": str(call.number), "arguments": json.dumps(header)}
    metadata["scales"] = json.dumps(dict(call.scales))
    unfinished = file.with_suffix(".part")
    save_file(tensors, unfinished, metadata)
    os.replace(unfinished, file)


def read_calls(folder: Path) -> list[Call]:
    """The calls that the processes of a run have left in `folder`, process by process, each in its order."""
    found = [(file.stem.partition("-"), file) for file in folder.glob("*.safetensors")]
    return [read_call(file) for _, file in sorted(found, key=lambda named: (named[0][0], int(named[0][2])))]


def read_call(file: Path) -> Call:
    """Read what `write_call` wrote."""
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as stored:
        metadata = stored.metadata()
        arguments: dict[str, Argument] = {}
        for path, value in json.loads(metadata["arguments"]).items():
            if isinstance(value, dict):
                shape = tuple(value.pop("shape"))
                values = stored.get_tensor(path)
                if value.pop("complex"):
                    values = values.view(getattr(importlib.import_module("torch"), value["dtype"]))
                arguments[path] = Recorded(shape, values=values.reshape(_kept_shape(shape, value)), **value)
            else:
                arguments[path] = value
    return Call(metadata["model"], int(metadata["number"]), arguments, json.loads(metadata["scales"]))


def _kept_shape(shape: tuple[int, ...], value: dict[str, Any]) -> tuple[int, ...]:
    return shape if value["whole"] else (-1,)


def _described(value: Recorded) -> dict[str, Any]:
    fields = {name: getattr(value, name) for name in ("shape", "dtype", "digest", "mean", "std", "whole")}
    return {**fields, "complex": value.values.is_complex()}


def _storable(tensor: Any) -> Any:
    """Complex numbers (rotary tables of some models) as pairs: not every safetensors knows them."""
    import torch

    return torch.view_as_real(tensor).flatten() if tensor.is_complex() else tensor
