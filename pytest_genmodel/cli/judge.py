"""`genmodel judge RUN`: a saved run judged again under another policy, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pytest_genmodel.cli.judgement import allowances
from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.reports.report import COMPLETE, Report
from pytest_genmodel.runs.again import NewPolicy, judge_again
from pytest_genmodel.runs.saved import read
from pytest_genmodel.tensors.tolerance import Tolerance


@dataclass(frozen=True)
class Wishes:
    """What the command line says of the policy; None and empty: as the run was judged."""

    strict: bool | None = None
    allow: Sequence[str] = ()
    forget_allowed: bool = False
    tolerances: Sequence[str] = ()
    json: str | None = None
    report: str | None = None


def judge(source: str, wishes: Wishes, terminal: Terminal) -> int:
    """Judge, say what came of it, write what was asked for, and give the exit status.

    Raises:
        BadInputError: there is no such run, or a value of the policy is wrong.
        OSError: a report cannot be written.
    """
    policy = NewPolicy(
        wishes.strict,
        allowances(wishes.allow),
        wishes.forget_allowed,
        dict(_tolerance(text) for text in wishes.tolerances),
    )
    run = read(source)
    report = judge_again(run, policy)
    if report.exit_status not in COMPLETE:
        terminal.complain(
            f"{source}: the run did not come to its end, and has judged less than it was asked to"
        )
    _say(report, terminal)
    _say_changes(run.report, report, terminal)
    if wishes.json is not None:
        report.write_json(Path(wishes.json))
        terminal.say(f"{wishes.json}: written")
    if wishes.report is not None:
        _write_page(report, Path(wishes.report), terminal)
    return report.exit_status


def _tolerance(text: str) -> tuple[str, Tolerance]:
    """`psnr:40` for every claim, `reproducible=psnr:40` for one."""
    name, equals, rest = text.partition("=")
    if not equals or not name.isidentifier():
        name, rest = "", text
    try:
        return name, Tolerance.parse(rest)
    except BadInputError as error:
        raise BadInputError(f"--tolerance={text}: {error}") from None


def _say(report: Report, terminal: Terminal) -> None:
    from pytest_genmodel.reports.terminal import write_summary

    write_summary(_Lines(terminal), report)  # type: ignore[arg-type]


def _say_changes(before: dict[str, Any], after: Report, terminal: Terminal) -> None:
    was = {(one["id"], one["candidate"], one["invariant"]): one["outcome"] for one in before["verdicts"]}
    changed = [
        f"  {one['id']}: {before_} -> {one['outcome']}"
        for one in after.verdicts
        if (before_ := was[one["id"], one["candidate"], one["invariant"]]) != one["outcome"]
    ]
    terminal.say()
    terminal.say(["changed by this policy:", *changed] if changed else "every verdict is as the run gave it")


def _write_page(report: Report, path: Path, terminal: Terminal) -> None:
    from pytest_genmodel.cli.report import LEFT_OUT
    from pytest_genmodel.reports.html.page import missing, page
    from pytest_genmodel.whole_file import write_whole

    if problem := missing():
        raise BadInputError(problem)
    document = report.to_json()
    footage = {
        str(one["candidate"]): {**one, "pictures": None, "left_out": LEFT_OUT} for one in document["samples"]
    }
    write_whole(path, page(document, footage))
    terminal.say(f"{path}: written")


class _Lines:
    """What the summary of a run is written to, in place of pytest's reporter."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self.config = SimpleNamespace(get_terminal_writer=lambda: SimpleNamespace(_file=terminal.out))
        self.isatty, self._screen_width = True, terminal.width

    def write_sep(self, mark: str, title: str) -> None:
        """A line across, with a title in it."""
        self._terminal.say(f" {title} ".center(self._terminal.width, mark), always=True)

    def write_line(self, text: str, *, green: bool = False, red: bool = False, **_: Any) -> None:
        """A line or several, coloured by what they say."""
        self._terminal.say(
            text.splitlines() or "", always=True, like="good" if green else "error" if red else None
        )
