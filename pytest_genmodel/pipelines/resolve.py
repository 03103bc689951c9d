"""From what a user writes (`outputs/run-17@latest`, `tiny:cogvideox-i2v`, `owner/name`) to a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.inventory import inventory
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.errors import first_line
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.library import quiet

_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*\Z")
_REVISION = re.compile(r"^\w[\w./-]*\Z")
_PATIENCE = 20.0
"""Seconds that the hub has to say whether it knows a name."""
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def split(spec: str) -> tuple[str, str | None]:
    """Tell what lies somewhere from which of its sets of weights is meant: `outputs/run-17@latest` in two.

    The second is None where none is named. A path that contains an `@` itself wins, the longest that is there; of a
    hub id the first `@` belongs to it: what stands behind is the revision.
    """
    parts = spec.split("@")
    if spec.startswith(tiny.PREFIX) or len(parts) == 1 or _path(spec).exists():
        return spec, None
    for count in range(len(parts) - 1, 0, -1):
        base = "@".join(parts[:count])
        if base and _path(base).exists():
            return base, "@".join(parts[count:])
    if _is_hub_id(parts[0]):
        return "@".join(parts[:2]), "@".join(parts[2:]) or None
    return (parts[0], "@".join(parts[1:])) if parts[0] else (spec, None)


def is_path(spec: str) -> bool:
    """Whether `spec` names something that is there, with a set of weights named or not."""
    return _path(split(spec)[0]).exists()


def resolve(spec: str, workdir: Path) -> Checkpoint:
    """Find and open the checkpoint `spec`.

    A path wins over a hub id of the same spelling. Hub ids come from the local cache, or are fetched where the
    hub's offline switch is off; never code, never pickles. Tiny pipelines are written under `workdir`.

    Raises:
        UnreadableCheckpointError: nothing is there, nothing that is read here, or several sets of weights.
        UnknownTinyPipelineError: no tiny pipeline has the name.
        DamagedFileError: a file needed to recognise the checkpoint is damaged.
    """
    root, which = locate(spec, workdir)
    if which is None:
        return open_checkpoint(root, spec)
    return _open_set(root, which, spec)


def locate(spec: str, workdir: Path) -> tuple[Path, str | None]:
    """Find where the checkpoint `spec` lies, and which of the sets of weights there is named; raises as `resolve`."""
    if spec.startswith(tiny.PREFIX):
        shipped = tiny.shipped_folder(spec)
        if shipped is not None:
            return shipped, None
        with quiet():
            return tiny.materialise(spec, workdir / "tiny"), None
    base, which = split(spec)
    return (_from_hub(base) if _is_hub_id(base) else _path(base)), which


def peek(spec: str) -> Checkpoint | None:
    """Open `spec` where that is cheap: a path, a shipped model, a hub id while the hub is switched off.

    The name of a tiny pipeline that must be built is only checked, and so is a hub id that may have to be fetched:
    the answer is None. Raises as `resolve` does.
    """
    if spec.startswith(tiny.PREFIX):
        shipped = tiny.shipped_folder(spec)
        return open_checkpoint(shipped, spec) if shipped is not None else None
    base, which = split(spec)
    root = _path(base)
    if _is_hub_id(base):
        from huggingface_hub.constants import HF_HUB_OFFLINE

        if not HF_HUB_OFFLINE:
            return None
        root = _from_hub(base)
    return open_checkpoint(root, spec) if which is None else _open_set(root, which, spec)


def check_hub(spec: str) -> None:
    """Ask the hub, in one request, whether it has `spec`, unless that is no hub id or lies in the cache.

    Raises:
        UnreadableCheckpointError: the hub does not give it; the line that `resolve` would end with, an hour earlier.
    """
    base, _ = split(spec)
    if spec.startswith(tiny.PREFIX) or not _is_hub_id(base):
        return
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE or _in_cache(base):
        return
    repository, _, revision = base.partition("@")
    try:
        HfApi().model_info(repository, revision=revision or None, timeout=_PATIENCE)
    except Exception as error:  # the hub's own, or any of the network's
        raise UnreadableCheckpointError(_not_given(base, error)) from None


def _in_cache(base: str) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = base.partition("@")
    try:
        snapshot_download(repository, revision=revision or None, local_files_only=True)
    except (LocalEntryNotFoundError, OSError, ValueError):
        return False
    return True


def _open_set(root: Path, which: str, spec: str) -> Checkpoint:
    base = spec.removesuffix(f"@{which}")
    if not root.exists():
        raise UnreadableCheckpointError(f"{base}: no such file or folder")
    if not which:
        raise UnreadableCheckpointError(
            f"{spec}: nothing stands behind the @; name a set of weights, as {base}@latest"
        )
    try:
        return inventory(root).find(which, base).open(spec)
    except OSError as error:  # no permission, a disk that went away
        raise UnreadableCheckpointError(f"{base}: cannot be read ({error.strerror or error})") from None


def _is_hub_id(spec: str) -> bool:
    """A path wins; `outputs/run-17` beside a folder `outputs` is a path that is not there, and no owner's model."""
    name, _, revision = spec.partition("@")
    if not _HUB_ID.match(name) or (revision and not _REVISION.match(revision)):
        return False
    path = _path(spec)
    return not path.exists() and not path.parent.is_dir()


def _path(spec: str) -> Path:
    try:
        return Path(spec).expanduser()
    except RuntimeError:  # `~name` of nobody: an odd file name, then
        return Path(spec)


def _from_hub(spec: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository, _, revision = spec.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(_HUB_FILES)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError, ValueError) as error:
        raise UnreadableCheckpointError(_not_given(spec, error)) from None


def _not_given(spec: str, error: Exception) -> str:
    return f"{spec}: no such file or folder, and the hub does not give it ({first_line(error)})"
