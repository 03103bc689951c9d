"""What the tests of optimizers share: the recorded training steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.recorded import Recorded, record


@pytest.fixture(scope="session")
def recorded(healthy: Path) -> Recorded:
    """Weights of the tiny transformer and the gradients of three real steps. Read only."""
    return record(healthy)
