"""From what a user writes (`outputs/run-17`, `tiny:cogvideox-i2v`, `owner/name`) to a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.opening import UnreadableCheckpointError, open_checkpoint
from pytest_genmodel.errors import first_line
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.library import quiet

_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*\Z")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def resolve(spec: str, workdir: Path) -> Checkpoint:
    """Find and open the checkpoint `spec`.

    A path wins over a hub id of the same spelling. Hub ids come from the local cache, or are fetched where the
    hub's offline switch is off; never code, never pickles. Tiny pipelines are written under `workdir`.

    Raises:
        UnreadableCheckpointError: nothing is there, or nothing that is read here.
        UnknownTinyPipelineError: no tiny pipeline has the name.
        DamagedFileError: a file needed to recognise the checkpoint is damaged.
    """
    if spec.startswith(tiny.PREFIX):
        with quiet():
            return open_checkpoint(tiny.materialise(spec, workdir / "tiny"), spec)
    if _is_hub_id(spec):
        return open_checkpoint(_from_hub(spec), spec)
    return open_checkpoint(_path(spec), spec)


def peek(spec: str) -> Checkpoint | None:
    """Open `spec` where that is cheap: a path, a shipped model, a hub id while the hub is switched off.

    The name of a tiny pipeline that must be built is only checked, and so is a hub id that may have to be fetched:
    the answer is None. Raises as `resolve` does.
    """
    if spec.startswith(tiny.PREFIX):
        shipped = tiny.shipped_folder(spec)
        return open_checkpoint(shipped, spec) if shipped is not None else None
    if not _is_hub_id(spec):
        return open_checkpoint(_path(spec), spec)
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return open_checkpoint(_from_hub(spec), spec) if HF_HUB_OFFLINE else None


def _is_hub_id(spec: str) -> bool:
    """A path wins; `outputs/run-17` beside a folder `outputs` is a path that is not there, and no owner's model."""
    if not _HUB_ID.match(spec):
        return False
    path = _path(spec)
    return not path.exists() and not path.parent.is_dir()


def _path(spec: str) -> Path:
    try:
        return Path(spec).expanduser()
    except RuntimeError:  # `~name` of nobody: an odd file name, then
        return Path(spec)


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(repository, allow_patterns=list(_HUB_FILES)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError, ValueError) as error:
        raise UnreadableCheckpointError(
            f"{repository}: no such file or folder, and the hub does not give it ({first_line(error)})"
        ) from None
