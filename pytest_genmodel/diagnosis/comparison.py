"""Two checkpoints held against each other, component by component: what differs, and what could not be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.digest import component_digest
from pytest_genmodel.checkpoints.pairing import Pair, paired
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.configuration import configuration_findings
from pytest_genmodel.diagnosis.damage import damage_finding
from pytest_genmodel.diagnosis.difference import difference_findings
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.pipelines.equality import compare_stored


@dataclass(frozen=True)
class Compared:
    """One component of both: the difference of its weights (None where none was made), and what follows from it.

    `left_out` says what was not compared, and why, in words; None where everything was.
    """

    name: str
    difference: WeightDifference | None
    findings: tuple[Finding, ...]
    left_out: str | None = None
    is_of_one_side: bool = False
    """Whether the other checkpoint is partial and has no such component."""


def compare_checkpoints(
    candidate: Checkpoint,
    reference: Checkpoint,
    change_of: Callable[[str], Change],
    progress: Progress = silent,
) -> Iterator[Compared]:
    """Compare weights and stored configuration of every component; nothing is loaded, bytes are streamed.

    Either side may be partial: what only the whole one has is not missing from the other.

    Args:
        candidate, reference: the two.
        change_of: what the contract says of a component, by its name.
        progress: told how far the reading is.

    Raises:
        BadInputError: an unnamed set of weights is no part of the other side.
        DamagedFileError: it cannot be read, so that nobody knows what it is.
    """
    for pair in paired(candidate, reference):
        if pair.ours is not None and pair.theirs is not None:
            yield _both(pair.name, pair.ours, pair.theirs, change_of(pair.name), progress)
        else:
            yield _one_side(pair, candidate, reference)


def _one_side(pair: Pair, candidate: Checkpoint, reference: Checkpoint) -> Compared:
    has, lacks = ("candidate", reference) if pair.ours is not None else ("reference", candidate)
    name = pair.name or "the set of weights"
    if lacks.is_partial:
        return Compared(pair.name, None, (), f"in the {has} only", is_of_one_side=True)
    return Compared(pair.name, None, (one_sided(name, pair.name, has),))


def one_sided(what: str, name: str, has: str) -> Finding:
    """Say that only one of the two (`has`: candidate or reference) has the component `name`."""
    return Finding(
        "GM206", f"only the {has} has a {what}", component=name or None, location="model_index.json"
    )


def _both(name: str, ours: Component, theirs: Component, change: Change, progress: Progress) -> Compared:
    findings: list[Finding] = []
    difference: WeightDifference | None = None
    left_out: str | None = None
    try:
        if kind := of_other_kind(name, ours, theirs):
            return Compared(name, None, (kind,))
        if ours.has_weights:
            difference = compare_stored(ours, theirs, progress)
            findings += difference_findings(name, difference, change)
        if ours.config and theirs.config:
            findings += configuration_findings(ours, theirs)
        left_out = _not_looked_at(ours, theirs)
    except DamagedFileError as error:
        findings.append(damage_finding(error, name or None))
        left_out = "it cannot be read to the end"
    except GenmodelError as error:  # a class that is not installed: its configuration says nothing to us
        left_out = f"its configuration: {error}"
    return Compared(name, difference, tuple(findings), left_out)


def of_other_kind(name: str, ours: Component, theirs: Component) -> Finding | None:
    """Say that the two are not the same kind of thing, so that comparing them makes no sense."""
    if ours.class_name != theirs.class_name and (ours.has_weights or theirs.has_weights):
        return Finding(
            "GM206",
            f"{name} is a {ours.class_name}, the reference's a {theirs.class_name}",
            component=name or None,
            location=f"model_index.json:{name}",
        )
    if ours.has_weights != theirs.has_weights:
        without, other = ("reference", "candidate's") if ours.has_weights else ("candidate", "reference's")
        return Finding(
            "GM206",
            f"the {name} of the {without} holds no weights, the {other} does",
            component=name or None,
            location=f"{name}/",
        )
    return None


def _not_looked_at(ours: Component, theirs: Component) -> str | None:
    if (
        not ours.has_weights
        and "tokenizer" in ours.name
        and component_digest(ours) != component_digest(theirs)
    ):
        return "its files differ, and what they do with a prompt was not tried"
    if ours.has_weights and bool(ours.config) != bool(theirs.config):
        return f"its configuration, which only the {'candidate' if ours.config else 'reference'} has"
    return None
