"""The run's report: begun before anything is collected, filled as items report, written when the run ends.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_genmodel import settings
from pytest_genmodel.stash import REPORT, SESSION
from pytest_genmodel.whole_file import can_be_written

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from pytest_genmodel.session import GenmodelSession


def check_report_paths(session: GenmodelSession) -> None:
    """Find out before an hour of sampling that the report cannot be written."""
    for name in ("json", "report", "sarif", "code-quality", "summary", "calibrate"):
        path = getattr(session.settings, name.replace("-", "_"))
        if path is None or (name == "calibrate" and Path(path).is_file()):
            continue
        if not can_be_written(Path(path)):
            raise pytest.UsageError(f"--genmodel-{name}={path}: cannot be written there")
    if session.settings.save_run is not None:
        _check_run(session.settings.save_run)
    if session.settings.report is not None:
        from pytest_genmodel.reports.html.page import missing

        if problem := missing():
            raise pytest.UsageError(f"--genmodel-report={session.settings.report}: {problem}")


def _check_run(folder: str) -> None:
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.runs.saved import check_folder

    try:
        check_folder(Path(folder))
    except BadInputError as error:
        raise pytest.UsageError(f"--genmodel-save-run={folder}: {error}") from None


def start_report(config: pytest.Config, session: GenmodelSession) -> None:
    """Begin the report, with what the settings say of the run."""
    from pytest_genmodel.reports.report import Report

    reference = session.settings.reference
    config.stash[REPORT] = Report(
        candidates=[session.describe(index) for index in range(len(session.labels))],
        reference={"spec": reference} if reference else None,
        command={
            "line": shlex.join(("pytest", *map(str, config.invocation_params.args))),
            "options": shlex.join(settings.spelled(session.settings)),
        },
        allow=session.settings.allow,
    )


class Collecting:
    """Takes in reports as they arrive, and writes the views when the run ends."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.report = config.stash[REPORT]
        self.problems: list[str] = []
        self.kept: dict[str, None] = {}

    def pytest_keyboard_interrupt(self) -> None:
        """Leave a clean line behind."""
        self.config.stash[SESSION].clear_progress()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in what an item brought."""
        record = getattr(report, "genmodel", None)
        if record is not None:
            self.report.add(record)
            if record["kept"]:
                self.kept[record["kept"]] = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the views; one that cannot be made or written fails the run and leaves the others alone."""
        if self.report.checked_nothing and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.config.option.collectonly:
            return
        self.report.exit_status = int(session.exitstatus)
        given = self.config.stash[SESSION].settings
        for name, path, write in (
            ("json", given.json, self.report.write_json),
            ("report", given.report, self.report.write_html),
            ("sarif", given.sarif, partial(self.report.write_view, "sarif")),
            ("code-quality", given.code_quality, partial(self.report.write_view, "code-quality")),
            ("summary", given.summary, partial(self.report.write_view, "summary")),
        ):
            if path is None:
                continue
            try:
                write(Path(path))
                continue
            except OSError as error:
                why = f"cannot be written ({error.strerror or error})"
            except Exception as error:  # a fault of ours must not cost the summary of an hour's run
                why = f"could not be made ({type(error).__name__}: {error}); please report this"
            self.problems.append(f"--genmodel-{name}={path}: {why}")
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Write the summary, and what else there is to know of the run."""
        from pytest_genmodel.reports.terminal import columns, write_summary
        from pytest_genmodel.reports.text import fold

        write_summary(terminalreporter, self.report)
        for entry in self.report.allowances:
            if entry["note"]:
                terminalreporter.write_line(fold(entry["note"], "  note: ", columns(terminalreporter)))
        for folder in self.kept:
            terminalreporter.write_line(f"work files are kept in {folder} (--genmodel-keep)")
        for problem in self.problems:
            terminalreporter.write_line(problem, red=True)
