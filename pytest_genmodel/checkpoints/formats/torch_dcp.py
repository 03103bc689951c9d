"""A torch distributed checkpoint (DCP): a folder with `.metadata` and `*.distcp`, as FSDP and finetrainers save."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.sharded.dcp_metadata import FILE
from pytest_genmodel.checkpoints.weights import WeightSet

_FINETRAINERS = "finetrainers_step_"


def recognises(path: Path) -> bool:
    """Whether `path` is a folder with the index of such a checkpoint."""
    return path.is_dir() and (path / FILE).is_file()


def read(path: Path, spec: str) -> Checkpoint:
    """Give the model's weights as one unnamed component; nothing is opened before they are asked for."""
    writer = (
        "finetrainers" if path.resolve().name.startswith(_FINETRAINERS) else "torch.distributed.checkpoint"
    )
    component = Component("", path, "", "", source=lambda: weights(path))
    return Checkpoint(
        spec=spec, root=path, kind=Kind.WEIGHTS, written_by=f"{writer} (DCP)", components={"": component}
    )


def weights(folder: Path) -> WeightSet:
    """Read the model's weights in `folder`.

    Raises:
        DamagedFileError: a file is missing, damaged or unsafe, or no model is in it.
    """
    from pytest_genmodel.checkpoints.sharded.dcp import DcpWeights

    return DcpWeights(folder)
