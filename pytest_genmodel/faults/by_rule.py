"""The faults that a rule is shown by."""

from __future__ import annotations

from pytest_genmodel.faults.misses import MISSES
from pytest_genmodel.faults.registry import Fault, all_faults


def faults_of(code: str) -> tuple[Fault, ...]:
    """The faults that are caught with this code, in the registry's order; imports no model library."""
    return tuple(fault for fault in all_faults().values() if fault.code == code and fault.name not in MISSES)
