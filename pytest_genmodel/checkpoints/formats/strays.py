"""What lies in a checkpoint's folder like a result of training, and belongs to nothing that is read."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pytest_genmodel.checkpoints.component import Component


def strays(root: Path, known: Collection[str]) -> tuple[Path, ...]:
    """Give the weights files of `root` itself, and its folders of a model (config.json and weights) not in `known`.

    A trainer's state (optimizer, random states) is none.
    """
    folders = (
        path
        for path in sorted(root.iterdir())
        if path.name not in known and not path.name.startswith(".") and (path / "config.json").is_file()
    )
    return (*_weights_files(root), *(path for path in folders if _weights_files(path)))


def _weights_files(folder: Path) -> tuple[Path, ...]:
    """A component of no library takes none of the files, so that each of them is unread."""
    return Component("", folder, "", "").unread_files
