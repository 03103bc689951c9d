"""In a job of GitHub Actions: findings as annotations, and the run in the job's summary.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from pytest_genmodel.reports.report import Report
    from pytest_genmodel.settings import Settings

JOB = "GITHUB_ACTIONS"
SUMMARY = "GITHUB_STEP_SUMMARY"
"""The file of which GitHub makes the job's summary; each step has one of its own."""


def is_wanted(settings: Settings) -> bool:
    """Whether this run tells GitHub what it found."""
    if settings.annotations == "auto":
        return os.environ.get(JOB) == "true"
    return settings.annotations == "github"


class GithubView:
    """Writes the two views that GitHub reads; what cannot be written is said, and never fails the run."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.problem: str | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Add to the job's summary."""
        path = os.environ.get(SUMMARY)
        if not path or session.config.option.collectonly or not (self.report.verdicts or self.report.audit):
            return
        from pytest_genmodel.reports.markdown import append_summary

        try:
            append_summary(self.report.to_json(), Path(path))
        except OSError as error:
            self.problem = f"the job summary could not be written ({error.strerror or error})"

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Write the annotations."""
        if terminalreporter.config.option.collectonly:
            return
        from pytest_genmodel.reports.annotations import workflow_commands

        if self.problem is not None:
            terminalreporter.write_line(self.problem)
        terminalreporter.ensure_newline()
        for line in workflow_commands(self.report.to_json()).splitlines():
            terminalreporter.write_line(line)
