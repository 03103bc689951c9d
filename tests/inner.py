"""Fixtures that run pytest inside pytest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run(pytester: pytest.Pytester, healthy: Path) -> Callable[..., pytest.RunResult]:
    """Run pytest in an empty folder; `{healthy}` in an argument stands for the tiny pipeline's folder."""

    def call(*arguments: str, candidate: bool = True, subprocess: bool = False) -> pytest.RunResult:
        given = [f"--genmodel-ckpt={healthy}"] if candidate else []
        filled = [argument.replace("{healthy}", str(healthy)) for argument in arguments]
        runner = pytester.runpytest_subprocess if subprocess else pytester.runpytest_inprocess
        return runner("-p", "no:randomly", *given, *filled)

    return call


@pytest.fixture
def report(pytester: pytest.Pytester) -> Callable[[], dict[str, Any]]:
    """The JSON report that the run wrote to report.json."""
    return lambda: json.loads((pytester.path / "report.json").read_text())
