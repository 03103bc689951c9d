"""What became of the allowances of a run: those that nothing needed are said, where the whole suite was judged.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_genmodel.diagnosis.allowance import Allowance, unneeded


def allowances(
    given: Sequence[Allowance], verdicts: Sequence[Mapping[str, Any]], *, whole: bool
) -> list[dict[str, Any]]:
    """One entry for each allowance of the command line and the ini file, in the report's spelling.

    Args:
        given: the allowances.
        verdicts: what was judged, as the report spells it.
        whole: whether all of the suite was judged; only then is it said that nothing needs an allowance.
    """
    findings = [finding for verdict in verdicts for finding in verdict["findings"]]
    idle = unneeded(given, findings)
    outcomes = {verdict["outcome"] for verdict in verdicts}
    told = whole and "inconclusive" not in outcomes
    return [
        {
            "allowance": allowance.target,
            "reason": allowance.reason,
            "by": allowance.by,
            "found": allowance not in idle,
            "note": _note(allowance, "skipped" in outcomes) if told and allowance in idle else None,
        }
        for allowance in given
    ]


def _note(allowance: Allowance, skipped: bool) -> str:
    unless = ", unless it is for what was skipped" if skipped else ""
    return f"{allowance.target} is allowed and was not found: remove it{unless} ({allowance.reason})"
