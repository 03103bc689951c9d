"""A method of an object or a class replaced for a while, and put back whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Original = Callable[..., Any]


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Original], Original]) -> Iterator[None]:
    """Replace `owner.name` by what `make` makes of it.

    An attribute of the owner's own comes back; one that came from its class, or from a base, comes from there again.
    """
    own = name in vars(owner)
    stored = vars(owner).get(name)
    setattr(owner, name, make(getattr(owner, name)))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, stored)
        else:
            delattr(owner, name)
