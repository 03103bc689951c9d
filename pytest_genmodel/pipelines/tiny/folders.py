"""Writing a pipeline folder so that nobody ever sees half of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# A component's folder is recognised by its configuration file; these are the files that must stand beside it.
_BESIDE_CONFIG = {
    "config.json": ("*.safetensors",),
    "scheduler_config.json": (),
    "tokenizer_config.json": ("tokenizer.json",),
    "preprocessor_config.json": (),
}


def write_once(target: Path, build: Callable[[], Any], probe: Mapping[str, Any] | None = None) -> Path:
    """Return `target`, holding what ``build().save_pretrained`` writes, and `probe` as ``probe.json``.

    Does nothing if it is complete already.

    The files are written into a folder beside `target` and renamed into place: an interrupted run leaves no
    partial folder under that name, and of several processes that arrive together all get a complete one.
    Raises OSError where the parent cannot be written.
    """
    if is_complete(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        written = beside / "new"
        build().save_pretrained(str(written))
        if probe:
            (written / "probe.json").write_text(json.dumps(dict(probe), indent=2), encoding="utf-8")
        _put_in_place(written, target, beside / "old")
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def is_complete(folder: Path) -> bool:
    """Say whether every component in ``model_index.json`` is there, and no weight file is cut short."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    components = [name for name, value in index.items() if isinstance(value, list) and value and value[0]]
    return bool(components) and all(_component_is_complete(folder / name) for name in components)


def _put_in_place(written: Path, target: Path, aside: Path) -> None:
    try:
        os.replace(written, target)
    except OSError:
        # A folder stands there: another process was faster, or it was damaged later.
        if is_complete(target):
            return
        with contextlib.suppress(FileNotFoundError):
            os.replace(target, aside)
        os.replace(written, target)


def _component_is_complete(folder: Path) -> bool:
    for config, beside in _BESIDE_CONFIG.items():
        if (folder / config).is_file():
            found = [sorted(folder.glob(pattern)) for pattern in beside]
            return all(found) and all(_weights_are_whole(path) for paths in found for path in paths)
    return False


def _weights_are_whole(path: Path) -> bool:
    """Compare a safetensors file's size with what its header promises; other files only need to be there."""
    if path.suffix != ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            header = json.loads(file.read(length) if length <= size - 8 else b"")
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return False
    return size == 8 + length + max(ends, default=0)
