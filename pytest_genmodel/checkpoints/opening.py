"""From a path to a checkpoint: which format it is, or what it is instead."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from pytest_genmodel.checkpoints import training_output
from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.one_format import read_one, readable
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
    with readable(spec):
        if not path.exists():
            raise UnreadableCheckpointError(f"{spec}: no such file or folder")
        if not path.is_dir() and not path.is_file():
            raise UnreadableCheckpointError(f"{spec}: neither a file nor a folder")
        if path.is_dir() and not any(path.iterdir()):
            raise UnreadableCheckpointError(f"{spec}: the folder is empty")
        path = _snapshot(path) or path
        if training_output.recognises(path):
            return replace(training_output.read(path, spec), scripts=scripts_in(path))
        return read_one(path, spec)


def _snapshot(path: Path) -> Path | None:
    """The revision in use, where `path` is a model's folder in the hub's cache (refs/, snapshots/); else None."""
    snapshots, main = path / "snapshots", path / "refs" / "main"
    if not path.is_dir() or not snapshots.is_dir() or not main.is_file():
        return None
    with main.open(encoding="utf-8", errors="replace") as stream:
        revision = stream.read(100).strip()
    found = snapshots / revision
    return found if re.fullmatch(r"[\w-]+", revision) and found.is_dir() else None
