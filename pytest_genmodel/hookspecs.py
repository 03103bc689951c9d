"""Hooks of a project's `conftest.py`: its trainer and its inference, where no option names them.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.hookspec(firstresult=True)
def pytest_genmodel_trainer(config: pytest.Config) -> str | Callable[..., Any] | None:
    """Give the trainer that the built-in suite runs: a function, or what `--genmodel-trainer` and `-train-cmd` take.

    The function is `trainer(reference, *, lr, steps, seed, output) -> checkpoint`
    (`pytest_genmodel.training.trainers.Trainer`). An option goes before it.
    """


@pytest.hookspec(firstresult=True)
def pytest_genmodel_sampler(config: pytest.Config) -> str | Callable[..., Any] | None:
    """Give the inference that our samples are compared with: a function, or what `--genmodel-sampler` takes.

    The function is `sampler(candidate, *, probe)` and gives frames or the path of a video. An option goes before it.
    """
