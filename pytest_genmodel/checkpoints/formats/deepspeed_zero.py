"""A DeepSpeed checkpoint (ZeRO 1, 2, 3): `latest` and the folder that it names, or that folder itself."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.sharded.zero_files import LATEST, is_step_folder, latest_folder
from pytest_genmodel.checkpoints.weights import WeightSet


def recognises(path: Path) -> bool:
    """Whether `path` holds DeepSpeed's files, or names a folder in `latest` beside such folders."""
    if not path.is_dir():
        return False
    if is_step_folder(path):
        return True
    folder = latest_folder(path)
    return folder is not None and (is_step_folder(folder) or (not folder.exists() and bool(_saves(path))))


def read(path: Path, spec: str) -> Checkpoint:
    """Give the weights of the last save as one unnamed component; nothing is opened before they are asked for.

    Raises:
        DamagedFileError: the folder that `latest` names is not there.
    """
    folder = path if is_step_folder(path) else latest_folder(path)
    if folder is None or not folder.is_dir():
        named = folder.name if folder else "nothing"
        raise DamagedFileError(
            path / LATEST,
            Damage.MISSING_FILE,
            f"it names the folder {named!r}, which is not there (there is {', '.join(_saves(path))})",
            action="Copy the folder that it names, or give one of the others by itself.",
        )
    component = Component("", folder, "", "", source=lambda: weights(folder))
    return Checkpoint(
        spec=spec, root=path, kind=Kind.WEIGHTS, written_by="DeepSpeed (ZeRO)", components={"": component}
    )


def weights(folder: Path) -> WeightSet:
    """Read the weights in `folder`.

    Raises:
        BadInputError: the model was split between ranks in other ways than ZeRO's.
        DamagedFileError: a file is missing, damaged or unsafe.
    """
    from pytest_genmodel.checkpoints.sharded.zero import ZeroWeights
    from pytest_genmodel.checkpoints.sharded.zero_files import find_files

    return ZeroWeights(find_files(folder))


def _saves(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if is_step_folder(entry))
