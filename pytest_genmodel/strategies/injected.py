"""Faults of the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from pytest_genmodel.errors import BadInputError

if TYPE_CHECKING:
    from pytest_genmodel.faults.registry import Fault


def faults(*, kind: str | None = "checkpoint", level: str | None = None) -> st.SearchStrategy[Fault]:
    """Faults that can be injected with `fault.inject(folder)`.

    Args:
        kind: what they are applied to ("checkpoint", "adapter", "environment"); None for any.
        level: the least level at which they show ("static", "quick", "full"); None for any.

    Raises:
        BadInputError: there is none of this kind and level.
    """
    from pytest_genmodel.faults.registry import all_faults

    found = [
        fault
        for fault in all_faults().values()
        if kind in (None, fault.kind) and level in (None, fault.level)
    ]
    if not found:
        raise BadInputError(f"no fault is of kind {kind!r} and level {level!r}")
    return st.sampled_from(found)
