"""`genmodel accept RUN [ID ...]`: take what a saved run has seen as the baseline, after showing what changes."""

from __future__ import annotations

import getpass
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.runs import accepting
from pytest_genmodel.runs.saved import SavedRun, read

UNCHANGED, REFUSED = 0, 1
"""Exit statuses: written, nothing to change, or only looked at; asked, and not written."""


def accept(
    source: str,
    ids: Sequence[str],
    terminal: Terminal,
    *,
    baseline: str | None = None,
    yes: bool = False,
    dry_run: bool = False,
) -> int:
    """Show what would change in the baseline, write it if that is wanted, and give the exit status.

    Args:
        source: the saved run's folder.
        ids: what to accept; all of it where there is none.
        terminal: told what changes.
        baseline: the file; that of the run where it is not given.
        yes: write without asking.
        dry_run: show, and write nothing.

    Raises:
        BadInputError: nothing can be accepted from this run, an id names nothing, or nobody is there to be asked.
    """
    from pytest_genmodel.baselines.changes import change_lines
    from pytest_genmodel.baselines.store import Store

    run = read(source)
    accepting.check(run)
    entries = accepting.chosen(accepting.offered(run), ids)
    path = Path(baseline) if baseline is not None else accepting.baseline_of(run)
    if path is None:
        raise BadInputError(f"{source}: the run was judged with no baseline: name the file as --baseline")
    before = Store.open(path)
    after = accepting.renewed(before, entries, _by(run, ids))
    lines = [line for line in change_lines(before, after) if accepting.ACCEPTED not in line]
    if not lines:
        terminal.say(f"{path}: nothing changes")
        terminal.document("accept", UNCHANGED, path=str(path), changes=[], written=False)
        return UNCHANGED
    terminal.say(f"{path}: accepting changes this:", always=True)
    terminal.say(lines, always=True)
    for warning in _warnings(run):
        terminal.say(warning, always=True, like="warning")
    if dry_run or not _agreed(yes, terminal):
        terminal.say("nothing was written", always=True)
        status = UNCHANGED if dry_run else REFUSED
        terminal.document("accept", status, path=str(path), changes=lines, written=False)
        return status
    size = after.write()
    terminal.say(f"{path}: written, {size} bytes", like="good")
    terminal.document("accept", UNCHANGED, path=str(path), changes=lines, written=True, bytes=size)
    return UNCHANGED


def _by(run: SavedRun, ids: Sequence[str]) -> dict[str, object]:
    """Who accepts, when, what, and from which command."""
    try:
        who = getpass.getuser()
    except (OSError, KeyError):
        who = "unknown"
    return {
        "who": who,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "ids": list(ids),
        "command": shlex.join(["genmodel", "accept", str(run.path), *ids]),
        "run": str(run.report.get("command", {}).get("line", "")),
        "candidates": [one.get("digest") for one in run.report["candidates"]],
    }


def _warnings(run: SavedRun) -> list[str]:
    """What the run found: it does not keep a baseline from being accepted, and must be seen."""
    failed = [
        f"  {verdict['id']}: {finding['code']} {finding['title']}"
        for verdict in run.report["verdicts"]
        if verdict["outcome"] == "failed"
        for finding in [f for f in verdict["findings"] if f["severity"] != "note"][:1]
    ]
    return ["the run failed:", *failed] if failed else []


def _agreed(yes: bool, terminal: Terminal) -> bool:
    if yes:
        return True
    if terminal.as_json or not sys.stdin.isatty():
        raise BadInputError(
            "nobody is there to be asked: give --yes to write this, or --dry-run to look only"
        )
    try:
        return input("write it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        terminal.say(always=True)
        return False
