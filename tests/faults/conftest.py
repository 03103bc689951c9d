"""The models that faults are injected into, made once, and a short way to a verdict about a fault."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from pytest_genmodel.audit.subject import fine_tuned, write_adapter
from pytest_genmodel.faults.copy import clone
from pytest_genmodel.faults.registry import Fault, Place
from pytest_genmodel.invariants.verdict import Verdict
from pytest_genmodel.pipelines import tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, healthy: Path) -> Callable[[str], Path]:
    """The folder of a tiny pipeline; read only."""
    root = tmp_path_factory.mktemp("models")
    return lambda name: healthy if name == "cogvideox-i2v" else tiny.materialise(name, root)


@pytest.fixture(scope="session")
def subjects(
    model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Fault, str], Path]:
    """The folder that a fault is injected into a copy of; read only."""
    root = tmp_path_factory.mktemp("subjects")

    def subject(fault: Fault, name: str) -> Path:
        if fault.kind == "adapter":
            made = root / f"{name}-adapter"
            return made if made.exists() else write_adapter(model(name), made)
        if fault.expect == "finetuned":
            made = root / f"{name}-tuned"
            return made if made.exists() else fine_tuned(model(name), made)
        return model(name)

    return subject


@pytest.fixture
def injected(judged, model, subjects, tmp_path) -> Callable[..., tuple[Verdict, Place]]:
    """Inject a fault into a copy of a tiny pipeline, and judge the claim that must see it."""

    def inject(fault: Fault, name: str) -> tuple[Verdict, Place]:
        reference = model(name)
        if fault.kind == "environment":
            path, place = reference, fault.place or Place(None)
        else:
            path, place = fault.inject(clone(subjects(fault, name), tmp_path / "faulty"), reference)
        with fault.broken(reference) if fault.kind == "environment" else nullcontext():
            verdict = judged(
                fault.invariant,
                path,
                reference if fault.needs_reference else None,
                level=fault.level,
                expect=fault.expect,
            )
        return verdict, place

    return inject
