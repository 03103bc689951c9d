"""One path, one format: the first that recognises it reads it, or it is said what the path is instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.formats import FORMATS
from pytest_genmodel.checkpoints.formats.component_folders import architectures
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.checkpoints.scripts import scripts_in


def read_one(path: Path, spec: str) -> Checkpoint:
    """Open what `path` (existing) is by itself; sets of weights below it are not looked for.

    Raises:
        UnreadableCheckpointError: no format recognises it, or it cannot be read.
        DamagedFileError: a file that must be read to recognise it is damaged.
    """
    with readable(spec):
        for module in FORMATS:
            if module.recognises(path):
                checkpoint = module.read(path, spec)
                return replace(checkpoint, scripts=scripts_in(path)) if path.is_dir() else checkpoint
        raise UnreadableCheckpointError(f"{spec}: {_what_it_is(path)}")


@contextmanager
def readable(spec: str) -> Iterator[None]:
    """Say in one line what the file system refuses: no permission, a name that is too long, a disk that went away."""
    try:
        yield
    except OSError as error:
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
