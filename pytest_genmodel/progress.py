"""Progress of a long job while pytest captures output: a bar on a terminal, a line now and then in CI.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from pytest_genmodel.reports.progress_bar import ProgressBar, ProgressLines, ProgressView

if TYPE_CHECKING:
    import pytest
    from _pytest.terminal import TerminalReporter


def progress_for(config: pytest.Config) -> ProgressView | None:
    """Give a progress that writes past the capture, or None where none is wanted (workers, -q)."""
    reporter: TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.verbose < 0:
        return None

    def write(text: str, *, line: bool) -> None:
        capture = config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            if line:
                reporter.write_line(text)
            else:  # past the reporter, which counts what it writes to place its percentages
                print(text, end="", flush=True)

    def room() -> int:
        writer = reporter._tw
        return int(writer.fullwidth) - int(writer.width_of_current_line) - 3  # an echoed ^C takes two

    if reporter.isatty:
        return ProgressBar(partial(write, line=False), room)
    return ProgressLines(partial(write, line=True))
