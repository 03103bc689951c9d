"""Hypothesis strategies for tests of generative models: probes, tensors, healthy variations, faults, sequences.

    from pytest_genmodel.strategies import tensors, probes, variations, faults, NeutralMachine

Needs the extra `hypothesis`. The names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import MissingExtraError

if TYPE_CHECKING:
    from .checkpoints import Variation, variations
    from .injected import faults
    from .inputs import probes
    from .machine import NeutralMachine, shortest_sequence
    from .values import tensors

_HOME = {
    "NeutralMachine": "machine",
    "Variation": "checkpoints",
    "faults": "injected",
    "probes": "inputs",
    "shortest_sequence": "machine",
    "tensors": "values",
    "variations": "checkpoints",
}

__all__ = [
    "NeutralMachine",
    "Variation",
    "faults",
    "probes",
    "shortest_sequence",
    "tensors",
    "variations",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("hypothesis") is None:
        raise MissingExtraError("hypothesis", "hypothesis", f"pytest_genmodel.strategies.{name}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
