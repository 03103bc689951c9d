"""Which of several differences carries the damage, as a finding with its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.transformations.bisection import Bisection, Swap
from pytest_genmodel.transformations.swaps import KEY, Part

ENOUGH = 0.5
"""The share from which on one part is said to carry the damage."""
NOTABLE = 0.1
"""The share beyond which a part has its say in whether the contract allows the damage."""
MOST_TOLD = 5


def swap_finding(
    found: Bisection, allowed: Callable[[Part], bool], severity: Severity = Severity.ERROR
) -> Finding | None:
    """Say which part carries the damage; None where no combination runs.

    Args:
        found: what exchanging the parts showed.
        allowed: whether the contract lets this part differ: damage that it carries is a note.
        severity: how much any other damage weighs.
    """
    ranked = found.ranked
    if not ranked:
        return None
    first, share = ranked[0]
    carries = share >= ENOUGH
    lead = [swap for swap, share in ranked if share > NOTABLE] or [first]
    return Finding(
        "GM960" if carries else "GM961",
        _sentence(found, ranked, carries),
        component=first.part.component or None,
        location=_location(first.part),
        severity=Severity.NOTE if all(allowed(swap.part) for swap in lead) else severity,
        cause=_cause(first, found) if carries else "the parts act together: each is harmless without another",
        evidence=table(found),
    )


def _sentence(found: Bisection, ranked: list[tuple[Swap, float]], carries: bool) -> str:
    what = "frames" if found.by_frames else "latents"
    first, *others = (f"{swap.part.name} {_percent(share)}" for swap, share in ranked[:MOST_TOLD])
    if carries:
        lead, share = ranked[0]
        told = f"{lead.part.name} carries {_percent(share)} of the difference in the {what}"
        told += f"; {', '.join(others)}" if others else ""
    else:
        told = f"no part alone carries the difference in the {what}: {', '.join((first, *others))}"
    stuck = [swap for swap in found.swaps if found.share(swap) is None]
    if stuck:
        told += f"; {len(stuck)} more do not run exchanged ({stuck[0].part.name}: {stuck[0].problem})"
    return told


def table(found: Bisection) -> dict[str, Any]:
    """The figures of every part: alone in the reference, and put right in the candidate."""
    return {
        "measured_by": "frames" if found.by_frames else "latents",
        "whole": vars(found.whole),
        "parts": [
            {
                "part": swap.part.name,
                "share": found.share(swap),
                "reference_with_it": vars(swap.alone) if swap.alone else None,
                "candidate_without_it": vars(swap.rest) if swap.rest else None,
                "problem": swap.problem,
            }
            for swap in sorted(found.swaps, key=lambda swap: -(found.share(swap) or 0.0))
        ],
        "samples": found.samples,
        "calls": found.calls,
        "calls_shared": found.shared,
    }


def _cause(swap: Swap, found: Bisection) -> str | None:
    if swap.rest is None or found.whole.frames is None or swap.rest.frames is None:
        return None
    left = swap.rest.frames / found.whole.frames if found.whole.frames else 0.0
    return (
        f"with the reference's {swap.part.name} in the candidate, {_percent(left)} of the difference is left"
    )


def _location(part: Part) -> str:
    if part.kind == KEY:
        file = "scheduler_config.json" if part.component == "scheduler" else "config.json"
        return f"{file}:{part.keys[0]}"
    if not part.component:
        return f"model_index.json:{part.keys[0]}" if part.keys else part.name
    return f"{part.component}/"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
