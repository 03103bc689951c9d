"""Where a finding lies, as machines want it: a file of the checkpoint, relative to the workspace, and a line in it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_genmodel.reports.text import printable

WORKSPACES = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR", "WORKSPACE")
"""Where GitHub, GitLab and Jenkins say that the repository lies."""
AT_REST = ("GM1", "GM2", "GM3", "GM4", "GM8")
"""Bands of rules whose tensors lie in a file; what training or a sample shows lies in none."""
MOST_BYTES = 1_000_000
"""A longer configuration is not searched for the line of a key; nor is a longer index for a tensor's shard."""
_FILE = re.compile(
    r"(?P<file>[^:]*\.(?:json|safetensors|bin|pt|pth|ckpt|gguf|distcp|model|txt|py))(?::(?P<key>.*))?", re.S
)


@dataclass(frozen=True)
class Place:
    """`file` is a path below the workspace (None where the finding lies in no file there), `line` counts from 1.

    `name` is never empty: the file, or else what the place is called, for formats that demand a path.
    """

    file: str | None
    name: str
    line: int = 1


def workspace() -> Path:
    """The folder of the repository: what the CI says, else the current folder."""
    given = next((os.environ[name] for name in WORKSPACES if os.environ.get(name)), None)
    return Path(given) if given and Path(given).is_dir() else Path.cwd()


@dataclass
class Places:
    """Finds the places of a run's findings; each file is looked at once.

    Args:
        root: the workspace.
    """

    root: Path
    _texts: dict[Path, str] = field(default_factory=dict)
    _folders: dict[Path, list[Path]] = field(default_factory=dict)
    _shards: dict[Path, dict[str, Any]] = field(default_factory=dict)

    def of(self, candidate: Mapping[str, Any], finding: Mapping[str, Any]) -> Place:
        """The place of one finding about `candidate` (an entry of the report's `candidates`)."""
        checkpoint = _folder_of(str(candidate["spec"]))
        component = str(finding["component"] or "")
        location = str(finding["location"] or "")
        named = _FILE.fullmatch(location)
        file = None
        if checkpoint is not None:
            if named:
                file = self._named(checkpoint, component, named["file"])
            elif location and str(finding["code"]).startswith(AT_REST):
                file = self._weights(checkpoint, component, location)
        below = self._below_root(file) if file is not None else None
        if file is not None and below is not None:
            return Place(below, below, self._line(file, named["key"] if named else None))
        return Place(None, self._called(candidate, checkpoint, component, named["file"] if named else ""))

    def _named(self, checkpoint: Path, component: str, name: str) -> Path | None:
        if not _is_inside(name):
            return None
        if checkpoint.is_file():
            return checkpoint if checkpoint.name == name else None
        folders = [checkpoint / component] if _is_inside(component) else []
        return next((path for folder in (*folders, checkpoint) if _is_file(path := folder / name)), None)

    def _weights(self, checkpoint: Path, component: str, tensor: str) -> Path | None:
        """The file that holds a tensor, or should hold it."""
        from pytest_genmodel.checkpoints.component import WEIGHT_SUFFIXES

        if checkpoint.is_file():
            return checkpoint
        inside = checkpoint / component if _is_inside(component) else checkpoint
        folder = inside if _is_folder(inside) else checkpoint
        files = self._folders.get(folder)
        if files is None:
            files = self._folders[folder] = _files_in(folder)
        index = next((path for path in files if path.name.endswith(".index.json")), None)
        if index is not None:
            return self._shard(index, tensor) or index
        return next((path for path in files if path.suffix in WEIGHT_SUFFIXES), None)

    def _shard(self, index: Path, tensor: str) -> Path | None:
        if index not in self._shards:
            try:
                listed = json.loads(self._text(index))["weight_map"]
            except (ValueError, KeyError, TypeError, RecursionError):
                listed = None
            self._shards[index] = listed if isinstance(listed, dict) else {}
        shard = self._shards[index].get(tensor)
        if not isinstance(shard, str) or Path(shard).name != shard:
            return None
        file = index.with_name(shard)
        return file if _is_file(file) else None

    def _below_root(self, file: Path) -> str | None:
        """The path from the workspace; None outside of it. Links are followed on neither side, or on both."""
        for path, root in (
            (os.path.abspath(file), os.path.abspath(self.root)),
            (file.resolve(), self.root.resolve()),
        ):
            if Path(path).is_relative_to(root):
                return Path(path).relative_to(root).as_posix()
        return None

    def _line(self, file: Path, key: str | None) -> int:
        """The first line of a JSON file that has the key; 1 where none has."""
        if not key or file.suffix != ".json":
            return 1
        text = self._text(file)
        for name in dict.fromkeys((key, key.rpartition(".")[2])):
            if match := re.search(rf"{re.escape(json.dumps(name))}\s*:", text):
                return text.count("\n", 0, match.start()) + 1
        return 1

    def _text(self, file: Path) -> str:
        if file not in self._texts:
            try:
                small = file.stat().st_size <= MOST_BYTES
                self._texts[file] = file.read_text(encoding="utf-8", errors="replace") if small else ""
            except OSError:
                self._texts[file] = ""
        return self._texts[file]

    def _called(
        self, candidate: Mapping[str, Any], checkpoint: Path | None, component: str, file: str
    ) -> str:
        below = self._below_root(checkpoint) if checkpoint is not None else None
        base = below if below not in (None, ".") else str(candidate["label"])
        inner = "" if file.startswith(f"{component}/") else component
        parts = (part.strip("/") for part in (base, inner, file) if part and _is_inside(part))
        return printable("/".join(parts)).replace("\n", "\\n") or "checkpoint"


def _folder_of(spec: str) -> Path | None:
    """Where a spec's checkpoint lies on this machine; None for a tiny pipeline, and for what is not there."""
    from pytest_genmodel.pipelines.resolve import split

    if spec.startswith("tiny:"):
        return None
    try:
        path = Path(split(spec)[0]).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # a name that no file can have
        return None


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:  # no permission, or gone since it was judged
        return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than any file's
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
