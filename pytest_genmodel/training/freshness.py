"""Whether weights were written by the run, or are those that it was given: by the files, never by exit status."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint


def weight_files(checkpoint: Checkpoint, denoisers: Iterable[str]) -> tuple[tuple[Path, ...], ...]:
    """Files that may hold what was trained: the adapter's, else those of each denoiser, or of the unnamed part."""
    if checkpoint.adapter is not None:
        return ((checkpoint.adapter.file,),)
    parts = [checkpoint.components[name] for name in (*denoisers, "") if name in checkpoint.components]
    return tuple(tuple(part.weights.files) for part in parts if part.has_weights)


def not_fresh(
    written: Iterable[Path],
    given: Path,
    *,
    started: int,
    saves: Mapping[str, bool] | None,
) -> str | None:
    """Say why the files are none that the run has written; None where they are its own.

    Args:
        written: the files in which the trained weights should be.
        given: the folder that training started from, the trainer's copy.
        started: when the run began, in nanoseconds of the file system's clock.
        saves: the files to which the process was seen to write tensors; None where it could not be watched.
    """
    given_files = list(_files(given))
    for path in written:
        real = path.resolve()
        state = real.stat()
        twin = next((file for file in given_files if os.path.samefile(file, real)), None)
        if twin is not None:
            kind = "a link to" if path.is_symlink() else "another name of"
            return f"{path.name} is {kind} the model that was given ({twin.relative_to(given)})"
        if saves and str(real) in saves:
            continue
        alike = [file for file in given_files if file.stat().st_size == state.st_size]
        if any(file.stat().st_mtime_ns == state.st_mtime_ns for file in alike):
            return f"{path.name} is a copy of the model that was given, with its time: nothing was seen to save it"
        if state.st_mtime_ns < started:
            return f"{path.name} is older than the run: it was put there, and nothing was seen to save it"
        if saves is not None and not saves and any(filecmp.cmp(file, real, shallow=False) for file in alike):
            return f"{path.name} is a copy of the model that was given: the process was not seen to save it"
    return None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
