"""The dtype and device of tensors of which nobody says more: torch's own for our work, the project's in its hooks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

_SET_ASIDE: list[tuple[Any, Any]] = []
"""What the project has set, while `own_defaults` is at work."""


@contextmanager
def own_defaults() -> Iterator[None]:
    """Have torch make float32 tensors on the CPU where nothing else is asked for; put back afterwards.

    A project's conftest may have set another dtype or device for code of its own: that is no part of the model.
    Where torch is not imported yet nobody has, and it is not imported for this.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_default_dtype(), torch.get_default_device()
    _SET_ASIDE.append(before)
    try:
        with _defaults(torch.float32, torch.device("cpu")):
            yield
    finally:
        _SET_ASIDE.pop()


@contextmanager
def project_defaults() -> Iterator[None]:
    """Within `own_defaults`, give a hook of the project's what its conftest has set."""
    if not _SET_ASIDE:
        yield
        return
    with _defaults(*_SET_ASIDE[0]):
        yield


@contextmanager
def _defaults(dtype: Any, device: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        # Such a context costs time in every call of torch: only where it changes something.
        with device if device != torch.get_default_device() else nullcontext():
            yield
    finally:
        torch.set_default_dtype(before)
