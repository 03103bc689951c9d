"""pytest-genmodel: invariants of generative models, judged by pytest.

The public names, loaded when first used: importing this package imports neither torch nor diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pytest_genmodel._version import __version__

if TYPE_CHECKING:
    from pytest_genmodel.diagnosis.finding import Finding
    from pytest_genmodel.errors import BadInputError, GenmodelError
    from pytest_genmodel.invariants.asserts import assert_same_weights
    from pytest_genmodel.invariants.context import Context
    from pytest_genmodel.invariants.registry import Level, invariant
    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe
    from pytest_genmodel.tensors import (
        Tolerance,
        assert_close,
        bitwise,
        close,
        compare,
        cosine,
        default_tolerance,
        psnr,
        ulp,
    )

_HOMES = {
    "pytest_genmodel.diagnosis.finding": ("Finding",),
    "pytest_genmodel.errors": ("BadInputError", "GenmodelError"),
    "pytest_genmodel.invariants.asserts": ("assert_same_weights",),
    "pytest_genmodel.invariants.context": ("Context",),
    "pytest_genmodel.invariants.registry": ("Level", "invariant"),
    "pytest_genmodel.pipelines.pipeline": ("Pipeline",),
    "pytest_genmodel.pipelines.probe": ("Probe",),
    "pytest_genmodel.tensors": (
        "Tolerance",
        "assert_close",
        "bitwise",
        "close",
        "compare",
        "cosine",
        "default_tolerance",
        "psnr",
        "ulp",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BadInputError",
    "Context",
    "Finding",
    "GenmodelError",
    "Level",
    "Pipeline",
    "Probe",
    "Tolerance",
    "__version__",
    "assert_close",
    "assert_same_weights",
    "bitwise",
    "close",
    "compare",
    "cosine",
    "default_tolerance",
    "invariant",
    "psnr",
    "ulp",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
