"""A file or path that cannot be read or trusted, as data: a finding needs its kind, its path and the offset."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from pytest_genmodel.errors import BadInputError, GenmodelError


class Damage(str, Enum):
    """What is wrong with a file; each value has its rule in `diagnosis.rules`."""

    EMPTY = "empty"
    NOT_WEIGHTS = "not_weights"
    TRUNCATED = "truncated"
    HEADER = "header"
    INDEX = "index"
    MISSING_FILE = "missing_file"
    PICKLE = "pickle"
    FOREIGN_CLASS = "foreign_class"
    CONFIG = "config"


class DamagedFileError(GenmodelError):
    """A file of the checkpoint is damaged or unsafe.

    `path` is the file, `offset` the byte at which reading stopped making sense (None where it has no place).
    """

    def __init__(
        self, path: Path, damage: Damage, what: str, *, action: str, offset: int | None = None
    ) -> None:
        place = f" at byte {offset}" if offset is not None else ""
        super().__init__(f"{path.name}{place}: {what}")
        self.path = path
        self.damage = damage
        self.what = what
        self.action = action
        self.offset = offset


class UnreadableCheckpointError(BadInputError):
    """The path is not a checkpoint that this version reads; says what it is instead."""
