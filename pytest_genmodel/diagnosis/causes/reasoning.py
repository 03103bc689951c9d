"""From the verdicts of one candidate to their causes: group, relate, order, and say how sure it is.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from pytest_genmodel.diagnosis.causes.case import Case
from pytest_genmodel.diagnosis.causes.cause import Cause, Confidence, Explained, Unjudged
from pytest_genmodel.diagnosis.causes.conclusion import conclusion_of
from pytest_genmodel.diagnosis.causes.group import Group, Record, groups_of
from pytest_genmodel.diagnosis.causes.relations import BLOCKS, RELATIONS
from pytest_genmodel.diagnosis.causes.stages import Nature

CARRIES = "GM960"
"""Says which of several differences carries the damage, where they were exchanged one by one: it leads."""
Edges = dict[int, dict[int, str]]


def causes(verdicts: Iterable[Record]) -> tuple[Cause, ...]:
    """The causes of what was found about one candidate, the one that weighs most and lies nearest to the root first.

    A cause is an error or a warning that no other one explains. Independent damages are causes of their own, and
    what several of them explain is listed with each. Notes are no faults, and what is allowed is a note.

    Args:
        verdicts: as the report's schema spells them, of one candidate, in any order; of a run, of a merged or of a
            saved report.
    """
    case = Case(list(verdicts))
    groups = groups_of(case.verdicts)
    edges = _edges(groups, case)
    explained = {effect for effects in edges.values() for effect in effects}
    roots = [place for place in range(len(groups)) if place not in explained]
    reached = {root: _reached(root, edges) for root in roots}
    blocked = _blocked(groups, case)

    def weight(root: int) -> tuple[int, int, bool, int, int]:
        worst = min(groups[place].severity for place in (root, *reached[root]))
        group = groups[root]
        carries = any(groups[effect].code == CARRIES for effect in edges.get(root, ()))
        return worst, group.severity, not carries, group.place, root

    found = []
    for root in sorted(roots, key=weight):
        others = {place for other in roots if other != root for place in (other, *reached[other])}
        alone = [place for place in reached[root] if place not in others]
        confidence = _confidence(groups[root], [groups[place] for place in alone], case)
        unjudged = {
            id_: entry for place in (root, *reached[root]) for id_, entry in blocked.get(place, {}).items()
        }
        found.append(
            Cause(
                groups[root].lead,
                groups[root].ids[0],
                groups[root].found_by,
                groups[root].ids,
                groups[root].locations,
                groups[root].stage.name,
                confidence,
                tuple(_explained(groups[place], why) for place, why in sorted(reached[root].items())),
                tuple(unjudged.values()),
                case.ruled_out,
                case.not_looked_at,
                conclusion_of(groups[root], case),
            )
        )
    return tuple(found)


def _edges(groups: Sequence[Group], case: Case) -> Edges:
    """Which explains which, and why; no two explain each other, not even by way of others."""
    edges: Edges = {}
    for relation in RELATIONS:
        sources = [place for place, group in enumerate(groups) if re.fullmatch(relation.cause, group.kind)]
        targets = [place for place, group in enumerate(groups) if re.fullmatch(relation.effect, group.kind)]
        for source in sources:
            for target in targets:
                if source == target or target in edges.get(source, {}):
                    continue
                links = (relation.by, *relation.given)
                if not all(link(groups[source], groups[target], case) for link in links):
                    continue
                if source not in _reached(target, edges):
                    edges.setdefault(source, {})[target] = relation.why
    return edges


def _reached(start: int, edges: Edges) -> dict[int, str]:
    """Everything that `start` explains, by way of others too, each with the reason it was reached by first."""
    found: dict[int, str] = {}
    waiting = [start]
    while waiting:
        for effect, why in edges.get(waiting.pop(0), {}).items():
            if effect not in found:
                found[effect] = why
                waiting.append(effect)
    return found


def _confidence(group: Group, explains_alone: Sequence[Group], case: Case) -> Confidence:
    """`explains_alone`: what no other cause explains."""
    if group.stage.nature is Nature.AT_REST:
        if _is_exact(group) or any(
            _is_exact(other) and group.names & other.names for other in explains_alone
        ):
            return Confidence.CERTAIN
        return Confidence.LIKELY if explains_alone or group.severity == 0 else Confidence.POSSIBLE
    settled = all(case.proves(subject) for subject in group.stage.settled_by)
    return Confidence.LIKELY if settled and group.severity == 0 else Confidence.POSSIBLE


def _is_exact(group: Group) -> bool:
    return group.stage.nature is Nature.AT_REST and group.severity == 0 and not group.is_mark


def _explained(group: Group, why: str) -> Explained:
    lead = group.lead
    return Explained(
        group.code,
        lead["title"],
        lead["severity"],
        group.component,
        group.locations,
        group.ids,
        group.found_by,
        why,
    )


def _blocked(groups: Sequence[Group], case: Case) -> dict[int, dict[str, Unjudged]]:
    """For each group the verdicts that could not be given because of it."""
    found: dict[int, dict[str, Unjudged]] = {}
    for verdict in case.verdicts:
        reason = str(verdict["reason"] or "")
        if verdict["outcome"] != "inconclusive":
            continue
        for place, group in enumerate(groups):
            why = next(
                (
                    block.why
                    for block in BLOCKS
                    if re.fullmatch(block.cause, group.kind) and _is_said(block.reason, group, reason)
                ),
                None,
            )
            if why is not None:
                id_ = str(verdict["id"])
                found.setdefault(place, {})[id_] = Unjudged(id_, str(verdict["invariant"]), why)
    return found


def _is_said(pattern: str | None, group: Group, reason: str) -> bool:
    if pattern is not None:
        return bool(re.search(pattern, reason))
    return any(re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", reason) for word in _words(group))


def _words(group: Group) -> Iterator[str]:
    """What a reason may call the group's place: its component, its file."""
    if group.component is not None:
        yield group.component
        return
    for location in group.locations:
        yield PurePosixPath(location.partition(":")[0]).name
