"""What the tests share: one tiny pipeline a process, copies of it to damage, and a short way to a verdict."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pytest_genmodel
from pytest_genmodel.invariants.verdict import Verdict
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings

# pytester forgets modules that an inner run was the first to import; torch cannot be imported twice, and what a
# test patches must be the module that the inner run uses.
HEAVY = ("torch", "diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video", "peft", "transformers")
OURS = (found.name for found in pkgutil.walk_packages(pytest_genmodel.__path__, "pytest_genmodel."))
for module in (*HEAVY, *(name for name in OURS if not name.endswith(".__main__"))):
    importlib.import_module(module)


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random tiny pipeline as a diffusers folder. Read only: take `copy` to damage one."""
    return tiny.materialise("cogvideox-i2v", tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def copy(healthy: Path, tmp_path: Path) -> Path:
    """A copy of the healthy pipeline, to be damaged."""
    return Path(shutil.copytree(healthy, tmp_path / "copy"))


@pytest.fixture
def judged(request: pytest.FixtureRequest) -> Callable[..., Verdict]:
    """Judge one invariant: `judged("coverage", candidate, reference=..., parameters={}, **settings)`."""

    def judge(
        name: str,
        candidate: Path | str,
        reference: Path | str | None = None,
        parameters: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Verdict:
        session = GenmodelSession(
            Settings(
                candidates=(str(candidate),), reference=str(reference) if reference else None, **settings
            )
        )
        request.addfinalizer(session.close)
        return session.judge(0, name, parameters or {})

    return judge
