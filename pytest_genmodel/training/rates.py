"""The rates of a ladder: from zero upwards, as an option or a marker gives them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

from pytest_genmodel.errors import BadInputError

LEAST = 3
"""Zero, the smallest rate above it, and one to measure that by."""
ACCEPTED = f"at least {LEAST} rates, rising from 0, as 0,1e-9,1e-7,1e-5"
DEFAULT = (0.0, 1e-9, 1e-7, 1e-5)


def parse_rates(text: str) -> tuple[float, ...]:
    """Read `0,1e-9,1e-7`.

    Raises:
        BadInputError: one line that says what is accepted.
    """
    try:
        return check_rates([float(part) for part in text.split(",")])
    except ValueError:
        raise BadInputError(ACCEPTED) from None


def check_rates(rates: Sequence[Any]) -> tuple[float, ...]:
    """Give the rates as numbers.

    Raises:
        BadInputError: they are no finite numbers, do not begin with 0, do not rise, or are fewer than three.
    """
    from pytest_genmodel.training.habits import counts_as_zero

    if not isinstance(rates, (list, tuple)) or any(type(rate) not in (int, float) for rate in rates):
        raise BadInputError(ACCEPTED)
    numbers = tuple(float(rate) for rate in rates)
    rising = all(low < high for low, high in pairwise(numbers))
    if len(numbers) < LEAST or not rising or not all(map(isfinite, numbers)):
        raise BadInputError(ACCEPTED)
    if numbers[0] < 0 or not counts_as_zero(numbers[0]) or counts_as_zero(numbers[1]):
        raise BadInputError(ACCEPTED)
    return numbers
