"""What the tests of several families share: their tiny pipelines as folders, and copies of them to damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_genmodel.pipelines import tiny


class Folders(dict[str, Path]):
    """Tiny pipelines by name, each written when it is first asked for."""

    def __init__(self, where: Path) -> None:
        super().__init__()
        self._where = where

    def __missing__(self, name: str) -> Path:
        self[name] = tiny.materialise(name, self._where)
        return self[name]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Read only: take `copied` to damage one."""
    return Folders(tmp_path_factory.mktemp("families"))


@pytest.fixture
def copied(folders: Folders, tmp_path: Path) -> Callable[[str], Path]:
    """Give a copy of a tiny pipeline, to be damaged."""
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / "copy"))
