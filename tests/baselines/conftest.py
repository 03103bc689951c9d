"""A baseline of the healthy tiny pipeline, made once in a process, and a short way to a verdict against it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_genmodel.baselines.record import put_reference
from pytest_genmodel.baselines.store import Store
from pytest_genmodel.invariants.verdict import Verdict
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings


def baseline_of(folder: Path, path: Path, **settings: Any) -> Path:
    """Make the baseline of a checkpoint."""
    session = GenmodelSession(Settings(reference=str(folder), **settings))
    store = Store(path)
    put_reference(store, session.record_reference())
    store.write()
    session.close()
    return path


@pytest.fixture(scope="session")
def recorded(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline of the healthy pipeline, with its sample. Read only."""
    return baseline_of(healthy, tmp_path_factory.mktemp("baseline") / "healthy.baseline")


@pytest.fixture
def against(request: pytest.FixtureRequest, recorded: Path) -> Callable[..., Verdict]:
    """Judge one invariant with the baseline in the reference's place."""

    def judge(
        name: str,
        candidate: Path,
        baseline: Path | None = None,
        reference: Path | None = None,
        **settings: Any,
    ) -> Verdict:
        session = GenmodelSession(
            Settings(
                candidates=(str(candidate),),
                baseline=str(baseline or recorded),
                reference=str(reference) if reference else None,
                **settings,
            )
        )
        request.addfinalizer(session.close)
        return session.judge(0, name, {})

    return judge
