"""Tensors by their kind: one name for those of all blocks, and the order in which a finding lists them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol, TypeVar

from pytest_genmodel.checkpoints.diff import WeightDifference

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_One = TypeVar("_One", bound=_Named)


def kind_of(name: str) -> str:
    """The name with its block numbers taken out."""
    return _NUMBER.sub("*", name)


def block_of(name: str) -> tuple[str, ...]:
    """The block numbers that `kind_of` takes out."""
    return tuple(_NUMBER.findall(name))


def as_stored(difference: WeightDifference, found: Iterable[_One]) -> list[_One]:
    """In the model's order, weights before biases."""
    place = {name: index for index, name in enumerate(difference.counterparts)}
    return sorted(found, key=lambda one: (one.name.endswith("bias"), place[one.name]))
