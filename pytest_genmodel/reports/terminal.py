"""The summary at the end of a terminal run: quiet when green, the cause first when red.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_genmodel.reports.ladder import MARKS, ladder_lines
from pytest_genmodel.reports.report import Report, count
from pytest_genmodel.reports.text import finding_text, fold

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

MOST_FAULTS = 5
_SEVERITIES = ("error", "warning")


def write_summary(terminal: TerminalReporter, report: Report) -> None:
    """Write the genmodel section: one line for a candidate that holds, findings for one that does not."""
    if not report.verdicts:
        return
    terminal.write_sep("=", "genmodel")
    for candidate in report.candidates:
        verdicts = report.of(candidate["label"])
        if not verdicts:
            continue
        green = not any(verdict["outcome"] in ("failed", "inconclusive") for verdict in verdicts)
        terminal.write_line(_headline(candidate, verdicts), green=green, red=not green, bold=True)
        for line in _body(verdicts):
            terminal.write_line(line)
        for verdict in verdicts:
            for line in ladder_lines(verdict, unicode=_shows(terminal, MARKS)):
                terminal.write_line(line)
    if report.checked_nothing:
        terminal.write_line("nothing was judged: every invariant was skipped, so this run fails", red=True)


def _shows(terminal: TerminalReporter, text: str) -> bool:
    """Whether the terminal's encoding has every character of `text`."""
    encoding = getattr(terminal.config.get_terminal_writer()._file, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _headline(candidate: dict[str, Any], verdicts: list[dict[str, Any]]) -> str:
    said = ", ".join(f"{number} {outcome}" for outcome, number in count(verdicts).items() if number)
    samples = sum(verdict["samples_computed"] for verdict in verdicts)
    return f"{candidate['spec']}: {said} ({samples} samples computed)"


def _body(verdicts: list[dict[str, Any]]) -> Iterator[str]:
    groups = _by_fault(verdicts)
    for findings, names in groups[:MOST_FAULTS]:
        yield ""
        yield from finding_text(findings[0]).splitlines()
        yield f"  found:  by {', '.join(names)}"
    if len(groups) > MOST_FAULTS:
        yield ""
        yield f"and {len(groups) - MOST_FAULTS} more faults in the failures above"
    lines = [*_notes(verdicts), *_by_reason(verdicts, "inconclusive"), *_by_reason(verdicts, "skipped")]
    if groups and lines:
        yield ""
    yield from lines


def _by_fault(verdicts: list[dict[str, Any]]) -> list[tuple[list[dict[str, Any]], list[str]]]:
    """What is more than a note, one entry for a code in a component, with the invariants that found it."""
    groups: dict[tuple[str, str | None], tuple[list[dict[str, Any]], list[str]]] = {}
    for verdict in verdicts:
        for finding in verdict["findings"]:
            if finding["severity"] != "note":
                findings, names = groups.setdefault((finding["code"], finding["component"]), ([], []))
                findings.append(finding)
                if verdict["invariant"] not in names:
                    names.append(verdict["invariant"])
    return sorted(groups.values(), key=lambda group: _SEVERITIES.index(group[0][0]["severity"]))


def _notes(verdicts: list[dict[str, Any]]) -> Iterator[str]:
    """What is worth knowing and no fault: one entry each."""
    for verdict in verdicts:
        for finding in verdict["findings"]:
            if finding["severity"] == "note":
                where = f"{finding['component']}: " if finding["component"] else ""
                yield from fold(f"{where}{finding['message']} ({finding['code']})", "  note: ").splitlines()


def _by_reason(verdicts: list[dict[str, Any]], outcome: str) -> Iterator[str]:
    """One entry for each reason, with every invariant it holds for."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict["outcome"] == outcome:
            reasons.setdefault(str(verdict["reason"]), []).append(verdict["invariant"])
    for reason, names in reasons.items():
        yield from fold(f"{', '.join(dict.fromkeys(names))}: {reason}", f"  {outcome}: ").splitlines()
