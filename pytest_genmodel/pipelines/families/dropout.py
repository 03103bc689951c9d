"""Dropout under a generator of one's own: torch draws it from the global random state only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@contextmanager
def dropout_from(generator: torch.Generator) -> Iterator[None]:
    """Set the CPU's global random state by a number from `generator`; put it back afterwards."""
    import torch

    seed = int(torch.randint(0, 2**31, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
