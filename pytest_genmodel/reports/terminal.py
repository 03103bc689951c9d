"""The summary at the end of a terminal run: quiet when green, the cause first when red.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_genmodel.reports.report import Report, count
from pytest_genmodel.reports.text import finding_text

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

MOST_FINDINGS = 5
_SEVERITIES = ("error", "warning", "note")


def write_summary(terminal: TerminalReporter, report: Report) -> None:
    """Write the genmodel section: one line for a candidate that holds, findings for one that does not."""
    if not report.verdicts:
        return
    terminal.section("genmodel", sep="=")
    for candidate in report.candidates:
        verdicts = report.of(candidate["label"])
        if not verdicts:
            continue
        green = not any(verdict["outcome"] in ("failed", "inconclusive") for verdict in verdicts)
        terminal.write_line(_headline(candidate, verdicts), green=green, red=not green, bold=True)
        for line in _body(verdicts):
            terminal.write_line(line)
    if report.checked_nothing:
        terminal.write_line("nothing was judged: every invariant was skipped, so this run fails", red=True)


def _headline(candidate: dict[str, Any], verdicts: list[dict[str, Any]]) -> str:
    counted = count(verdicts)
    words = {"passed": "hold", "failed": "do not", "skipped": "skipped", "inconclusive": "not judged"}
    said = ", ".join(f"{number} {words[outcome]}" for outcome, number in counted.items() if number)
    samples = sum(verdict["samples_computed"] for verdict in verdicts)
    return f"{candidate['spec']}: {said} ({samples} samples computed)"


def _body(verdicts: list[dict[str, Any]]) -> Iterator[str]:
    found = [(verdict, finding) for verdict in verdicts for finding in verdict["findings"]]
    loud = [(v, f) for v, f in found if f["severity"] != "note"]
    loud.sort(key=lambda pair: _SEVERITIES.index(pair[1]["severity"]))
    shown: set[tuple[str, str, str]] = set()
    for verdict, finding in loud:
        key = (finding["code"], finding["component"] or "", finding["location"] or "")
        if key in shown or len(shown) >= MOST_FINDINGS:
            continue
        shown.add(key)
        yield ""
        yield from finding_text(finding).splitlines()
        yield f"  found:  by {verdict['invariant']}"
    if len(loud) > len(shown):
        yield f"  and {len(loud) - len(shown)} more in the failures above"
    yield from _by_reason(verdicts, "inconclusive", "not judged")
    yield from _by_reason(verdicts, "skipped", "skipped")


def _by_reason(verdicts: list[dict[str, Any]], outcome: str, word: str) -> Iterator[str]:
    """One line for each reason, with every invariant it holds for."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict["outcome"] == outcome:
            reasons.setdefault(str(verdict["reason"]), []).append(verdict["invariant"])
    for reason, names in reasons.items():
        yield f"  {word}: {', '.join(dict.fromkeys(names))}: {reason}"
