"""The summary at the end of a terminal run: quiet when green, the cause first when red.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.causes import Cause, causes
from pytest_genmodel.reports.counts import count
from pytest_genmodel.reports.ladder import MARKS, ladder_lines
from pytest_genmodel.reports.report import Report
from pytest_genmodel.reports.text import WIDTH, finding_text, fold, printable

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

MOST_CAUSES = 3
"""Causes that are told in full; of all others the code and the place are said."""
MOST_REASONS = 6
MOST_PLACES = 3
NARROWEST = 60
"""Columns below which text is not folded any narrower: the terminal wraps it."""


def write_summary(terminal: TerminalReporter, report: Report) -> None:
    """Write the genmodel section: one line for a candidate that holds, findings for one that does not."""
    if not report.verdicts:
        return
    width = columns(terminal)
    terminal.write_sep("=", "genmodel")
    for candidate in report.candidates:
        verdicts = report.of(candidate["label"])
        if not verdicts:
            continue
        green = not any(verdict["outcome"] in ("failed", "inconclusive") for verdict in verdicts)
        terminal.write_line(_headline(candidate, verdicts), green=green, red=not green, bold=True)
        for line in _body(verdicts, causes(verdicts), width, is_red=not green):
            terminal.write_line(line)
        for verdict in verdicts:
            for line in ladder_lines(verdict, unicode=_shows(terminal, MARKS)):
                terminal.write_line(line)
    if report.checked_nothing:
        terminal.write_line("nothing was judged: every invariant was skipped, so this run fails", red=True)


def columns(terminal: Any) -> int:
    """How wide text may be: WIDTH, and no wider than the terminal of whoever reads it.

    A file or a pipe has no width of its own: there the same run gives the same text everywhere.
    """
    if not getattr(terminal, "isatty", False):
        return WIDTH
    return max(NARROWEST, min(WIDTH, int(terminal._screen_width)))


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
    return f"{printable(candidate['spec'])}: {said} ({samples} samples computed)"


def _body(
    verdicts: list[dict[str, Any]], found: Sequence[Cause], width: int, *, is_red: bool
) -> Iterator[str]:
    for number, cause in enumerate(found[:MOST_CAUSES], start=1):
        yield ""
        yield from _cause(cause, number, len(found), width, is_red=is_red)
        if is_red and (replay := next((v.get("replay") for v in verdicts if v["id"] == cause.id), None)):
            yield f"  replay: {printable(str(replay))}"
    for cause in found[MOST_CAUSES:]:
        yield from fold(_short(cause), "  and: ", width).splitlines()
    if found and is_red:
        yield ""
        yield from _settled(found[0], width)
    blocked = {entry.id for cause in found for entry in cause.unjudged}
    unjudged = [verdict for verdict in verdicts if verdict["id"] not in blocked]
    lines = [
        *_notes(verdicts, width),
        *_by_reason(unjudged, "inconclusive", width),
        *_by_reason(verdicts, "skipped", width),
    ]
    if found and lines and not is_red:
        yield ""
    yield from lines


def _cause(cause: Cause, number: int, of: int, width: int, *, is_red: bool) -> Iterator[str]:
    """The finding that leads, what follows from it, and what is therefore left."""
    which = f" {number} of {of}" if of > 1 else ""
    if is_red:
        yield f"root cause{which}, {cause.confidence.value}:"
    yield from finding_text(cause.finding, width).splitlines()
    yield from fold(f"by {', '.join(cause.found_by)}{_elsewhere(cause)}", "  found:  ", width).splitlines()
    if is_red:
        yield from _folded(cause.conclusion, "  why:    ", width)
    yield from _explained(cause, width)
    if cause.unjudged:
        names = ", ".join(dict.fromkeys(entry.invariant for entry in cause.unjudged))
        whys = ", ".join(dict.fromkeys(entry.why for entry in cause.unjudged))
        yield from _folded(f"{names} ({whys})", "  leaves unjudged: ", width)


def _elsewhere(cause: Cause) -> str:
    """The other places of the same code in the same component."""
    others = [printable(place) for place in cause.locations if place != cause.location]
    if not others:
        return ""
    more = f" and {len(others) - MOST_PLACES} more" if len(others) > MOST_PLACES else ""
    return f"; also at {', '.join(others[:MOST_PLACES])}{more}"


def _explained(cause: Cause, width: int) -> Iterator[str]:
    """What follows from it: a line for each reason, the findings by code and title."""
    reasons: dict[str, dict[str, None]] = {}
    for one in cause.explains:
        reasons.setdefault(one.why, {})[f"{one.code} {one.title}"] = None
    start = "  explains: "
    for why, names in list(reasons.items())[:MOST_REASONS]:
        yield from _folded(f"{', '.join(names)} ({why})", start, width)
        start = " " * len(start)
    if rest := [name for names in list(reasons.values())[MOST_REASONS:] for name in names]:
        yield from _folded(", ".join(name.partition(" ")[0] for name in rest), f"{start}and ", width)


def _short(cause: Cause) -> str:
    where = ": ".join(part for part in (cause.component, cause.location) if part)
    at = f" at {where}" if where else ""
    return printable(
        f"{cause.code} {cause.finding['title']}{at} ({cause.finding['severity']}, {cause.confidence.value})"
    )


def _settled(cause: Cause, width: int) -> Iterator[str]:
    """What the passed verdicts rule out, and what nobody looked at."""
    if cause.ruled_out:
        yield from _folded("; ".join(one.text for one in cause.ruled_out), "  ruled out: ", width)
    if cause.not_looked_at:
        subjects = dict.fromkeys(one.subject for one in cause.not_looked_at)
        yield from _folded(", ".join(subjects), "  not looked at: ", width)


def _folded(text: str, start: str, width: int) -> list[str]:
    return fold(printable(text), start, width).splitlines()


def _notes(verdicts: list[dict[str, Any]], width: int) -> Iterator[str]:
    """What is worth knowing and no fault: one entry each."""
    for verdict in verdicts:
        for finding in verdict["findings"]:
            if finding["severity"] == "note":
                where = f"{finding['component']}: " if finding["component"] else ""
                yield from _folded(f"{where}{finding['message']} ({finding['code']})", "  note: ", width)


def _by_reason(verdicts: list[dict[str, Any]], outcome: str, width: int) -> Iterator[str]:
    """One entry for each reason, with every invariant it holds for."""
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict["outcome"] == outcome:
            reasons.setdefault(str(verdict["reason"]), []).append(verdict["invariant"])
    for reason, names in reasons.items():
        yield from _folded(f"{', '.join(dict.fromkeys(names))}: {reason}", f"  {outcome}: ", width)
