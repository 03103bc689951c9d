"""From a path to a checkpoint: which format it is, or what it is instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.formats import FORMATS
from pytest_genmodel.checkpoints.formats.component_folders import architectures
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.checkpoints.scripts import scripts_in


def open_checkpoint(path: Path, spec: str) -> Checkpoint:
    """Recognise and open what lies under `path`; weights are read later.

    Args:
        path: a folder or a file.
        spec: how the user named it; used in messages and reports.

    Raises:
        UnreadableCheckpointError: nothing is there, or nothing that is a checkpoint.
        DamagedFileError: a file that must be read to recognise it is damaged.
    """
    try:
        if not path.exists():
            raise UnreadableCheckpointError(f"{spec}: no such file or folder")
        if not path.is_dir() and not path.is_file():
            raise UnreadableCheckpointError(f"{spec}: neither a file nor a folder")
        if path.is_dir() and not any(path.iterdir()):
            raise UnreadableCheckpointError(f"{spec}: the folder is empty")
        for module in FORMATS:
            if module.recognises(path):
                checkpoint = module.read(path, spec)
                return replace(checkpoint, scripts=scripts_in(path)) if path.is_dir() else checkpoint
        raise UnreadableCheckpointError(f"{spec}: {_what_it_is(path)}")
    except OSError as error:  # no permission, a name that is too long, a disk that went away
        raise UnreadableCheckpointError(f"{spec[:200]}: cannot be read ({error.strerror or error})") from None


def _what_it_is(path: Path) -> str:
    wanted = "expected model_index.json, a component's config.json, LoRA weights or a .safetensors file"
    if path.is_file():
        return f"a {path.suffix or 'nameless'} file is not a checkpoint that is read here; {wanted}"
    if (path / "config.json").is_file():
        config = read_json(path / "config.json")
        what = next(iter(architectures(config)), config.get("model_type", "a model of another kind"))
        return f"a folder of another kind ({what}), not an image-to-video checkpoint; {wanted}"
    inside = sorted(entry.name for entry in path.iterdir())[:5]
    return f"not a checkpoint (it holds {', '.join(inside)}); {wanted}"
