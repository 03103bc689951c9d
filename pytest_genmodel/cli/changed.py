"""`genmodel inspect --changed FILE...`: what a commit touches, each checkpoint once; the pre-commit hook calls it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import INDEX, Checkpoint
from pytest_genmodel.checkpoints.component import WEIGHT_SUFFIXES
from pytest_genmodel.checkpoints.damage import DamagedFileError, UnreadableCheckpointError
from pytest_genmodel.checkpoints.formats import component_folders, lora_adapter
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.cli.judgement import allowances, exit_status, last_line, with_allowed
from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.diagnosis.at_rest import findings_at_rest
from pytest_genmodel.diagnosis.damage import damage_finding
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.reports.text import printable

DEEPEST = 4
"""Folders above a file in which its checkpoint is looked for, where it lies outside of the current folder."""


def inspect_changed(
    files: Sequence[str], terminal: Terminal, *, strict: bool = False, allow: Sequence[str] = ()
) -> int:
    """Judge the checkpoints that `files` are part of, by their files alone; gives the exit status.

    `allow` says what may be found, each with the reason, as --genmodel-allow takes it; BadInputError where one is not
    spelled so.

    0: clean, or none of the files belongs to a checkpoint. 1: findings. 2: one of them is no checkpoint after all.
    """
    allowed = allowances(allow)
    judged: list[dict[str, Any]] = []
    status = 0
    for root in checkpoints_of(map(Path, files)):
        spec, problem = root.as_posix(), None
        findings: list[dict[str, Any]] = []
        try:
            found = _findings(root, terminal)
            findings = with_allowed(found, allowed, partial(_opened, root), terminal.progress)
        except UnreadableCheckpointError as error:
            problem = str(error)
            terminal.complain(problem)
        own = 2 if problem else exit_status(findings, strict)
        told = f"{printable(spec)}: {problem or last_line(findings, 'no finding at rest')}"
        terminal.say(["", told] if findings else told, always=bool(findings))
        terminal.findings(findings)
        judged.append({"spec": spec, "findings": findings, "problem": problem})
        status = max(status, own)
    if not judged:
        terminal.say("none of the files is part of a checkpoint")
    terminal.document(
        "inspect",
        status,
        checkpoints=judged,
        findings=[finding for one in judged for finding in one["findings"]],
    )
    return status


def checkpoints_of(files: Iterable[Path]) -> list[Path]:
    """The checkpoints that the files are part of, each once, in the order of the files."""
    return list(dict.fromkeys(root for file in files if (root := checkpoint_of(file)) is not None))


def checkpoint_of(file: Path) -> Path | None:
    """The pipeline that a file is part of, else its component, its LoRA, the weights file itself; None for others."""
    for folder in _above(file):
        if (folder / INDEX).is_file() and _is_of(folder, file):
            return folder
    folder = file.parent
    beside = [path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES] if folder.is_dir() else []
    try:
        if component_folders.is_component(folder):
            return folder
    except DamagedFileError:
        if beside:
            return folder
    if lora_adapter.recognises(folder) and file.suffix in {*WEIGHT_SUFFIXES, ".json"}:
        return folder
    return file if file.suffix in WEIGHT_SUFFIXES and file.is_file() else None


def _above(file: Path) -> Iterator[Path]:
    """The folders of a file, up to the current one (where git's hooks run: the root of the repository)."""
    inside = not file.is_absolute() and ".." not in file.parts
    yield from list(file.parents) if inside else list(file.parents)[:DEEPEST]


def _is_of(folder: Path, file: Path) -> bool:
    """Whether a pipeline's folder holds the file as its own: beside the index, or in a folder that it names."""
    first, *rest = file.relative_to(folder).parts
    if not rest:
        return True
    try:
        return first in read_json(folder / INDEX)
    except DamagedFileError:
        return True


def _findings(root: Path, terminal: Terminal) -> Iterator[Finding]:
    try:
        yield from findings_at_rest(_opened(root), terminal.progress)
    except DamagedFileError as error:  # of what it is recognised by
        yield damage_finding(error)


def _opened(root: Path) -> Checkpoint:
    return open_checkpoint(root, root.as_posix())
