"""The audit's section at the end of a terminal run.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_genmodel.audit.result import Score
from pytest_genmodel.reports.table import table
from pytest_genmodel.reports.text import fold

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from pytest_genmodel.settings import Settings


def write_summary(terminal: TerminalReporter, score: Score, settings: Settings, passed_over: int) -> None:
    """Write the score, the table of layers, the table of claims, and every fault that the gate lets pass."""
    terminal.write_sep("=", "genmodel audit")
    green = score.share is not None and score.share >= (settings.audit_min or 0.0)
    terminal.write_line(_headline(score, settings), green=green, red=not green, bold=True)
    for line in _body(score, passed_over, terminal._tw.fullwidth):
        terminal.write_line(line)


def _headline(score: Score, settings: Settings) -> str:
    spec = settings.candidates[0]
    if score.share is None:
        return f"{spec}: no fault was judged"
    seconds = sum(result.seconds for result in score.results)
    least = f", and at least {settings.audit_min:.0%} were asked for" if settings.audit_min else ""
    return f"{spec}: the gate catches {score.red} of {score.judged} faults ({score.share:.0%}) in {seconds:.0f} s{least}"


def _body(score: Score, passed_over: int, width: int) -> Iterator[str]:
    rows = [(layer, str(red), str(judged)) for layer, (red, judged) in sorted(score.layers.items())]
    yield ""
    yield from table(("layer", "caught", "of"), rows, width, indent="  ")
    rows = [
        (name, str(of["caught"]), str(of["first"]), f"{of['seconds']:.1f}")
        for name, of in sorted(score.claims.items(), key=lambda item: -item[1]["first"])
    ]
    yield ""
    yield from table(("claim", "caught", "no cheaper one did", "seconds"), rows, width, indent="  ")
    for outcome, title in (("missed", "would pass:"), ("warned", "would pass with a warning:")):
        if found := score.of(outcome):
            yield ""
            yield f"  {title}"
            for result in found:
                where = "" if outcome == "missed" else f" ({result.reason})"
                yield from fold(f"{result.summary}{where}", f"    {result.fault}: ", width).splitlines()
    stopped = score.of("stopped")
    if stopped:
        yield ""
        names = ", ".join(result.fault for result in stopped)
        yield from fold(names, "  red without a finding (could not be judged): ", width).splitlines()
    for outcome, title in (("not_applicable", "not applicable"), ("not_run", "not run")):
        reasons: dict[str, list[str]] = {}
        for result in score.of(outcome):
            reasons.setdefault(str(result.reason), []).append(result.fault)
        for reason, names in reasons.items():
            yield from fold(f"{reason} ({', '.join(names)})", f"  {title}: ", width).splitlines()
    if passed_over:
        yield f"  {passed_over} tests of your own without an invariant marker are no part of the audited gate"
