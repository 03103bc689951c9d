"""Findings and verdicts in words.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 100
MOST_FINDINGS = 8
_UNITS = ("B", "kB", "MB", "GB", "TB")


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


def finding_text(finding: Mapping[str, Any], width: int = WIDTH) -> str:
    """Say one finding, in lines of at most `width`: code, place, what, why, what to do."""
    where = ": ".join(part for part in (finding["component"], finding["location"]) if part)
    lines = [f"{finding['code']} {finding['title']} ({finding['severity']})"]
    if where:
        lines.append(f"  where:  {printable(where)}")
    lines.append(fold(printable(finding["message"]), "  what:   ", width))
    if finding["cause"]:
        lines.append(fold(printable(finding["cause"]), "  cause:  ", width))
    lines.append(fold(printable(finding["action"]), "  action: ", width))
    return "\n".join(lines)


def fold(text: str, start: str, width: int = WIDTH) -> str:
    """Fold `text` to `width`, behind `start` and as deep as it; a text of several lines keeps them."""
    if "\n" in text:
        return textwrap.indent(text, " " * len(start)).replace(" " * len(start), start, 1)
    return textwrap.fill(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


def printable(text: str) -> str:
    """Escape what a terminal would act upon, or not show: names come from files that anyone may have written."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def size_text(size: float) -> str:
    """A number of bytes in the unit that suits it: `4.1 MB` (a million bytes)."""
    power = 0
    while size >= 999.5 and power < len(_UNITS) - 1:
        size, power = size / 1000, power + 1
    unit = _UNITS[power]
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"


def number_text(number: int) -> str:
    """A count with its thousands apart: `5,570,283,072`."""
    return f"{number:,}"
