"""Findings and verdicts in words.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 100
MOST_FINDINGS = 8
_SEVERITIES = ("error", "warning", "note")
_COMMAND = re.compile(r"(?:^|(?<=\s))::|##\[")
_UNITS = ("B", "kB", "MB", "GB", "TB")


def verdict_text(verdict: Mapping[str, Any], width: int = WIDTH) -> str:
    """Say what a failed verdict found, the claim and its first cause in one line, and end with what to act upon.

    What leads stands at the end: its code, the number against the limit, what would have passed, where, why, and
    the command that judges just this again.
    """
    findings = _leading_first(verdict["findings"])
    first = findings[0]
    lines = [
        f"{verdict['invariant']} does not hold for {verdict['candidate']}: {first['code']} {first['title']}",
        "",
        fold(printable(first["message"]), "  what:   ", width),
        fold(printable(first["action"]), "  action: ", width),
    ]
    for finding in findings[1:MOST_FINDINGS]:
        lines += ["", finding_text(finding, width)]
    if len(findings) > MOST_FINDINGS:
        lines += [
            "",
            f"and {len(findings) - MOST_FINDINGS} more findings (all of them: --genmodel-json=FILE)",
        ]
    if verdict["reason"]:
        lines += ["", f"and then: {verdict['reason']}"]
    return "\n".join([*lines, "", *closing_lines(first, verdict.get("replay"), width)])


def closing_lines(finding: Mapping[str, Any], replay: str | None = None, width: int = WIDTH) -> list[str]:
    """What every failure ends with: code, number against limit, what would have passed, where, cause, command.

    The command is one line however long it is, so that it can be copied.
    """
    from pytest_genmodel.diagnosis.limit import limit_in, measured_text, passing_text

    limit = limit_in(finding["evidence"])
    lines = [f"{finding['code']} {finding['title']} ({finding['severity']})"]
    if number := measured_text(limit) if limit else None:
        lines.append(fold(printable(number), "  number: ", width))
    if limit is not None or _is_ours(finding["code"]):
        lines.append(fold(printable(passing_text(limit)), "  passes: ", width))
    if where := place_of(finding):
        lines.append(f"  where:  {where}")
    if finding["cause"]:
        lines.append(fold(printable(finding["cause"]), "  cause:  ", width))
    if replay:
        lines.append(f"  replay: {printable(replay)}")
    return lines


def _is_ours(code: str) -> bool:
    """Whether a rule of ours says it: a project's claim may hold a number against a limit that it does not tell."""
    return code.startswith("GM") and code != "GM010"


def unjudged_text(verdict: Mapping[str, Any]) -> str:
    """Say why a claim could not be judged, and how to try it again."""
    lines = [printable(f"{verdict['invariant']} could not be judged: {verdict['reason']}")]
    if verdict.get("replay"):
        lines.append(f"  replay: {printable(verdict['replay'])}")
    return "\n".join(lines)


def place_of(finding: Mapping[str, Any]) -> str:
    """Component and location of a finding: `transformer: proj_out.weight`; nothing where neither is known."""
    return printable(": ".join(part for part in (finding["component"], finding["location"]) if part))


def _leading_first(findings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first of the most severe ones, then the others in their order: a note explains no failure."""
    first = min(findings, key=lambda finding: _SEVERITIES.index(finding["severity"]))
    return [first, *(finding for finding in findings if finding is not first)]


def finding_text(finding: Mapping[str, Any], width: int = WIDTH) -> str:
    """Say one finding, in lines of at most `width`: code, place, what, why, what to do."""
    lines = [f"{finding['code']} {finding['title']} ({finding['severity']})"]
    if where := place_of(finding):
        lines.append(f"  where:  {where}")
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
    """Escape what a terminal would act upon, or not show: names come from files that anyone may have written.

    So too what GitHub's runner would act upon: `::` where a line begins, or may when it is folded, and `##[`.
    """
    if not text.isprintable():
        text = "".join(
            char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
            for char in text
        )
    return _COMMAND.sub(lambda match: f"{match[0][:-1]}\\{match[0][-1]}", text)


def shortened(text: str, most: int) -> str:
    """`text`, cut off where it is longer than `most` characters, which is shown."""
    return text if len(text) <= most else f"{text[:most]} ..."


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
