"""Fixtures that run pytest inside pytest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DRIFTS = """
from diffusers import CogVideoXImageToVideoPipeline as Pipeline

prepare, calls = Pipeline.prepare_latents, []

def drifting(self, *args, **kwargs):
    latents, image = prepare(self, *args, **kwargs)
    calls.append(1)
    return latents + (0.001 if len(calls) == 2 else 0.0), image

def pytest_configure(config):
    Pipeline.prepare_latents = drifting

def pytest_unconfigure(config):
    Pipeline.prepare_latents = prepare
"""
"""A conftest under which the second sample of a run is not the first one's."""


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
