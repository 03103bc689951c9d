"""What accelerate's `save_state` and `save_model` leave in a folder: the model's weights, without a configuration.

`model.safetensors`, `pytorch_model.bin` or shards of either; under FSDP `pytorch_model_fsdp.bin` (whole) or
`pytorch_model_fsdp_0/` (DCP); under DeepSpeed `pytorch_model/`. Beside them lies the trainer's state, which is not
read. A second model is `model_1.safetensors` and so on, by the order in which the trainer has prepared them: nothing
says what each of them is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component, FileSet
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.formats import deepspeed_zero, torch_dcp
from pytest_genmodel.checkpoints.sharded.zero_files import is_step_folder
from pytest_genmodel.checkpoints.weights import WeightSet, open_weights
from pytest_genmodel.errors import GenmodelError

_LONE = re.compile(
    r"^(model|pytorch_model|pytorch_model_fsdp)(_(?P<number>\d{1,3}))?\.(?P<container>safetensors|bin)$"
)
_SHARD = re.compile(r"^(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)$")
_LOCAL = re.compile(r"^pytorch_model_fsdp(_(?P<number>\d{1,3}))?_rank(?P<rank>\d+)\.bin$")
_FSDP_FOLDER = re.compile(r"^pytorch_model_fsdp_(?P<number>\d{1,3})$")
_DEEPSPEED_FOLDER = re.compile(r"^pytorch_model(_(?P<number>\d{1,3}))?$")


@dataclass(frozen=True)
class _Found:
    """One of the models: its number in the order of the trainer, its name, and how it is read."""

    number: int
    path: Path
    file: Path | None
    open: Callable[[], WeightSet]
    written_by: str


def recognises(path: Path) -> bool:
    """Whether `path` is a folder without a configuration, in which a model lies as accelerate names it."""
    if not path.is_dir() or (path / "config.json").is_file():
        return False
    return bool(_models(path)) or any(_local_shards(path))


def read(path: Path, spec: str) -> Checkpoint:
    """Give the one model as an unnamed component.

    Raises:
        UnreadableCheckpointError: several models are there, or each rank has saved its own piece by itself.
    """
    models = _models(path)
    if not models:
        names = ", ".join(file.name for file in _local_shards(path))
        raise UnreadableCheckpointError(
            f"{spec}: each rank has saved its own piece of the model by itself ({names}), which only the same number "
            "of ranks can load: save with fsdp_state_dict_type FULL_STATE_DICT or SHARDED_STATE_DICT"
        )
    if len({model.number for model in models}) > 1:
        first = {model.number: model for model in reversed(models)}
        raise UnreadableCheckpointError(
            f"{spec}: it holds {len(first)} models, in the order in which the trainer has prepared them, and nothing "
            f"says what each is ({'; '.join(_described(first[number]) for number in sorted(first))}): name one, "
            f"{spec}/{first[min(first)].path.name}"
        )
    model, *passed_over = models
    component = Component(
        "", path, "", "", weights_file=model.file, source=None if model.file is not None else model.open
    )
    return Checkpoint(
        spec=spec,
        root=path,
        kind=Kind.WEIGHTS,
        written_by=model.written_by,
        components={"": component},
        unread=tuple(other.path for other in passed_over),
    )


def _models(path: Path) -> list[_Found]:
    """Every model, by its number; of two that have one number, the one that accelerate loads comes first."""
    found = [*_sets(path), *_numbered(path), *_folders(path)]
    return sorted(found, key=lambda model: model.number)


def _sets(path: Path) -> Iterator[_Found]:
    """The first model: a file, or shards and their index, in the names that transformers gives them too."""
    yield from map(_of_files, Component("", path, "transformers", "").file_sets)


def _of_files(files: FileSet) -> _Found:
    lone = files.files[0] if files.index is None else None
    named = files.index or files.files[0]
    return _Found(0, named, lone, lambda: open_weights(files.files), "accelerate")


def _numbered(path: Path) -> Iterator[_Found]:
    """The other models, and what FSDP has gathered in one file."""
    for file in sorted(path.iterdir(), key=lambda file: file.suffix != ".safetensors"):
        match = _LONE.match(file.name)
        is_fsdp = file.name.startswith("pytorch_model_fsdp")
        if match and file.is_file() and (match["number"] or is_fsdp):
            writer = "accelerate (FSDP, gathered)" if is_fsdp else "accelerate"
            yield _Found(int(match["number"] or 0), file, file, _opener(file), writer)


def _opener(file: Path) -> Callable[[], WeightSet]:
    return lambda: open_weights((file,))


def _folders(path: Path) -> Iterator[_Found]:
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        fsdp, deepspeed = _FSDP_FOLDER.match(folder.name), _DEEPSPEED_FOLDER.match(folder.name)
        if fsdp and torch_dcp.recognises(folder):
            yield _Found(
                int(fsdp["number"]),
                folder,
                None,
                _reader(torch_dcp.weights, folder),
                "accelerate (FSDP, DCP)",
            )
        elif deepspeed and is_step_folder(folder):
            number = int(deepspeed["number"] or 0)
            yield _Found(
                number, folder, None, _reader(deepspeed_zero.weights, folder), "accelerate (DeepSpeed ZeRO)"
            )


def _reader(read_weights: Callable[[Path], WeightSet], folder: Path) -> Callable[[], WeightSet]:
    return lambda: read_weights(folder)


def _local_shards(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if _LOCAL.match(file.name))


def _described(model: _Found) -> str:
    """A model's name, and what is in it where that can be read."""
    try:
        tensors = model.open().tensors
    except GenmodelError:  # damage, or a layout that is not read: the name must do
        return model.path.name
    example = next(iter(tensors), "")
    return f"{model.path.name}: {len(tensors)} tensors, such as {example[:80]!r}"
