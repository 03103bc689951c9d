"""Findings and verdicts in words.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 100
MOST_FINDINGS = 8


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """Say what a failed verdict found: the claim and its first cause in one line, then each finding."""
    findings = verdict["findings"]
    first = findings[0]
    lines = [
        f"{verdict['invariant']} does not hold for {verdict['candidate']}: {first['code']} {first['title']}"
    ]
    for finding in findings[:MOST_FINDINGS]:
        lines += ["", finding_text(finding)]
    if len(findings) > MOST_FINDINGS:
        lines += [
            "",
            f"and {len(findings) - MOST_FINDINGS} more findings (all of them: --genmodel-json=FILE)",
        ]
    if verdict["reason"]:
        lines += ["", f"and then: {verdict['reason']}"]
    return "\n".join(lines)


def finding_text(finding: Mapping[str, Any]) -> str:
    """Say one finding: code, place, what, why, what to do."""
    where = ": ".join(part for part in (finding["component"], finding["location"]) if part)
    lines = [f"{finding['code']} {finding['title']} ({finding['severity']})"]
    if where:
        lines.append(f"  where:  {where}")
    lines.append(fold(finding["message"], "  what:   "))
    if finding["cause"]:
        lines.append(fold(finding["cause"], "  cause:  "))
    lines.append(fold(finding["action"], "  action: "))
    return "\n".join(lines)


def fold(text: str, start: str) -> str:
    """Fold `text` to the report's width, behind `start` and as deep as it; a text of several lines keeps them."""
    if "\n" in text:
        return textwrap.indent(text, " " * len(start)).replace(" " * len(start), start, 1)
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
