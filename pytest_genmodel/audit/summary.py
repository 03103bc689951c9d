"""The audit's section at the end of a terminal run.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_genmodel.audit.result import Score
from pytest_genmodel.reports.table import table
from pytest_genmodel.reports.text import fold

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from pytest_genmodel.settings import Settings

LEAST_SECONDS = 0.05
"""A claim that took less over all faults did not apply, or its level was not asked for."""


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
    least = f"; at least {settings.audit_min:.0%} were asked for" if settings.audit_min else ""
    share = f"{100 * score.share:.0f}%"
    return (
        f"{spec}: the gate catches {score.red} of {score.judged} faults ({share}) in {seconds:.0f} s{least}"
    )


def _body(score: Score, passed_over: int, width: int) -> Iterator[str]:
    layers = [(layer, str(red), str(judged)) for layer, (red, judged) in sorted(score.layers.items())]
    yield ""
    yield from table(("layer", "caught", "of"), layers, width, indent="  ")
    idle = [name for name, of in score.claims.items() if not of["caught"] and of["seconds"] < LEAST_SECONDS]
    claims = [
        (name, str(of["caught"]), str(of["first"]), f"{of['seconds']:.1f}")
        for name, of in sorted(score.claims.items(), key=lambda item: -int(item[1]["first"]))
        if name not in idle
    ]
    yield ""
    yield from table(("claim", "caught", "no cheaper one did", "seconds"), claims, width, indent="  ")
    if idle:
        yield from fold(", ".join(idle), "  nothing caught, nothing spent: ", width).splitlines()
    for outcome, title in (("missed", "would pass:"), ("warned", "would pass with a warning:")):
        found = score.of(outcome)
        if found:
            yield ""
            yield f"  {title}"
        for result in found:
            yield from _hanging(f"{result.fault}: {result.summary}", width)
            if outcome == "warned" or any(claim.allowed for claim in result.claims):
                yield from _hanging(f"  {result.reason}", width)
    stopped = score.of("stopped")
    if stopped:
        yield ""
        yield "  red without a finding, because a claim could not be judged:"
        yield from _hanging(", ".join(result.fault for result in stopped), width)
    for outcome, title in (("not_applicable", "not applicable:"), ("not_run", "not run:")):
        reasons: dict[str, list[str]] = {}
        for result in score.of(outcome):
            reasons.setdefault(str(result.reason), []).append(result.fault)
        if reasons:
            yield ""
            yield f"  {title}"
        for reason, names in reasons.items():
            yield from _hanging(f"{reason}: {', '.join(names)}", width)
    if passed_over:
        yield ""
        yield f"  {passed_over} tests of your own without an invariant marker are no part of the audited gate"


def _hanging(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent="    ",
        subsequent_indent="        ",
        break_long_words=False,
        break_on_hyphens=False,
    )
