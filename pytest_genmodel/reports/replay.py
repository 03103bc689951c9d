"""The command that judges one item again, and nothing else: for the terminal, the page and the JSON report.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = "genmodel"
"""How ids of the built-in suite begin."""
NO_SUITE = "--genmodel-no-suite"


def replay(
    nodeid: str, options: Sequence[str], rootdir: Path | None = None, folder: Path | None = None
) -> str:
    """A line for a shell in `folder`; arguments are quoted where they must be.

    Args:
        nodeid: the item as pytest names it: `genmodel::sampling::reproducible`, or `tests/test_x.py::test_y[z]`,
            which is relative to `rootdir`.
        options: those that give the same settings, as `settings.spelled` has them.
        rootdir: pytest's root folder.
        folder: where the command will be given; `rootdir` where it is not said.
    """
    file, colons, rest = nodeid.partition("::")
    if file == ROOT:
        return shlex.join(["pytest", *options, nodeid])
    if rootdir is not None and folder is not None and not os.path.isabs(file):
        file = Path(os.path.relpath(rootdir / file, folder)).as_posix()
    given = options if NO_SUITE in options else [*options, NO_SUITE]
    return shlex.join(["pytest", *given, f"{file}{colons}{rest}"])


def replay_of(document: Mapping[str, Any], nodeid: str) -> str | None:
    """The command of an item in a report; None for a report that does not say how it was run."""
    for verdict in document["verdicts"]:
        if verdict["id"] == nodeid and verdict.get("replay"):
            return str(verdict["replay"])
    options = document.get("command", {}).get("options")
    return replay(nodeid, shlex.split(str(options))) if options else None
