"""What may be done with a component, as the contract says it."""

from __future__ import annotations

from enum import Enum


class Change(str, Enum):
    """What the contract says of a component's difference from the reference."""

    FORBIDDEN = "forbidden"
    ALLOWED = "allowed"
    REQUIRED = "required"
