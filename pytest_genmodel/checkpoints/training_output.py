"""A trainer's output folder in which it is for the user to say which of several sets of weights is meant."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import INDEX, Checkpoint
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.inventory import inventory
from pytest_genmodel.checkpoints.saved import pointer_of, without_ema


def recognises(path: Path) -> bool:
    """Whether `path` holds sets of weights and is none of them itself, as no other format would notice."""
    if not path.is_dir() or (path / INDEX).is_file() or (path / "config.json").is_file():
        return False
    found, pointer = inventory(path), pointer_of(path)
    if found.final is not None:
        return found.final.path != path and pointer is None
    if pointer is not None and without_ema(pointer) is not None:
        return False  # a save that was broken off: the trainer's own format says so
    near = [one for one in found.sets if one.step is None]
    at_the_top = bool(near) and all(one.path == path and not one.is_ema for one in near)
    return bool(found.sets) and not at_the_top


def read(path: Path, spec: str) -> Checkpoint:
    """Open the final result.

    Raises:
        UnreadableCheckpointError: there is none, or raw weights and their average lie side by side; lists the sets
            and says how to name each.
        DamagedFileError: a file that must be read to recognise it is damaged.
    """
    found = inventory(path)
    if found.final is None:
        raise UnreadableCheckpointError(found.choice(spec))
    return found.final.open(spec)
