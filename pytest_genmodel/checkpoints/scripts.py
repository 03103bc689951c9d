"""Programs and pickles that lie in a checkpoint's folder. None of them is ever run or loaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

TRAINER_SCRIPTS = ("zero_to_fp32.py", "zero_to_torch.py")
"""What DeepSpeed puts beside every checkpoint that it writes."""

_DEEPEST = 3
_MOST = 20_000
"""Entries that are looked at: a folder may hold a data set."""
_SUFFIXES = frozenset(
    (
        *(".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1"),
        *(".pkl", ".pickle", ".dill", ".joblib"),
    )
)
_TRAINER_STATE = re.compile(
    r"^(random_states|rng_state|optimizer|scheduler|sampler|dataloader)", re.IGNORECASE
)


def scripts_in(root: Path) -> tuple[Path, ...]:
    """Give the programs and pickles in `root` and some levels below, sorted; links to folders are not followed.

    A trainer's own state (`random_states_0.pkl`) is none.
    """
    found: list[Path] = []
    looked_at = 0
    for folder, folders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEEPEST else []
        looked_at += len(files)
        found += [
            Path(folder, name)
            for name in files
            if Path(name).suffix.lower() in _SUFFIXES and not _TRAINER_STATE.match(name)
        ]
        if looked_at > _MOST:
            break
    return tuple(sorted(found))
