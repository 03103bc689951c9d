"""Progress on a terminal while pytest captures output: one line that overwrites itself, gone when done.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_genmodel.checkpoints.progress import Progress


def terminal_progress(config: pytest.Config) -> Progress | None:
    """Give a progress that writes past the capture, or None where nobody watches (CI, workers, -q)."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty or config.option.verbose < 0:
        return None

    def show(what: str, done: int, total: int, unit: str = "") -> None:
        text = f" {what} {done}/{total}"
        erase = "\b" * len(text)
        line = f"{text}{erase}" if done < total else f"{' ' * len(text)}{erase}"
        capture = config.pluginmanager.get_plugin("capturemanager")
        # Past the reporter, which counts what it writes to place its percentages.
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            print(line, end="", flush=True)

    return show
