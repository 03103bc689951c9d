"""Names of files in the order that a person gives them: `frame_2.png` before `frame_10.png`."""

from __future__ import annotations

import re


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, in which numbers count as numbers."""
    parts = re.split(r"(\d{1,18})", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
