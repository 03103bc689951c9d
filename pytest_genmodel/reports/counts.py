"""How many verdicts of each outcome.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

OUTCOMES = ("passed", "failed", "skipped", "inconclusive")


def count(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many verdicts of each outcome."""
    counted = Counter(verdict["outcome"] for verdict in verdicts)
    return {outcome: counted[outcome] for outcome in OUTCOMES}
