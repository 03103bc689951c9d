"""Which component of one checkpoint is which of another, also where a set of weights does not say what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.errors import BadInputError

ENOUGH_NAMES = 0.3
"""Share of an unnamed set's tensor names that a component of the reference must know to be the one meant."""
ADAPTER = "adapter"
"""What two adapters that are held against each other are called."""


@dataclass(frozen=True)
class Pair:
    """A component of two checkpoints, by the name that they share; None where a side has none of it."""

    name: str
    ours: Component | None
    theirs: Component | None


def paired(candidate: Checkpoint, reference: Checkpoint) -> tuple[Pair, ...]:
    """Pair the components of two checkpoints, whole or partial, in the reference's order.

    A set of weights without a name is named by the other side; one without a class has the class of the other. Two
    adapters are a pair of their own.

    Raises:
        BadInputError: an unnamed set of weights is no part of the other side.
        DamagedFileError: it cannot be read, so that nobody knows what it is.
    """
    ours, theirs = candidate.components, reference.components
    if "" in ours and "" not in theirs and theirs:
        ours = named_components(candidate, reference)
    elif "" in theirs and "" not in ours and ours:
        theirs = named_components(reference, candidate)
    pairs = [
        Pair(name, *_of_one_class(name, ours.get(name), theirs.get(name)))
        for name in dict.fromkeys((*theirs, *ours))
    ]
    if candidate.adapter is not None and reference.adapter is not None:
        pairs.append(Pair(ADAPTER, _adapter(candidate), _adapter(reference)))
    return tuple(pairs)


def _of_one_class(
    name: str, ours: Component | None, theirs: Component | None
) -> tuple[Component | None, Component | None]:
    """Give a side that names no class the class of the other."""
    if ours is None or theirs is None:
        return ours, theirs
    a, b = (replace(side, name=name) for side in (ours, theirs))
    if not a.class_name:
        a = replace(a, library=b.library, class_name=b.class_name, module=b.module)
    elif not b.class_name:
        b = replace(b, library=a.library, class_name=a.class_name, module=a.module)
    return a, b


def _adapter(checkpoint: Checkpoint) -> Component:
    assert checkpoint.adapter is not None
    weights = checkpoint.adapter.weights
    return Component(ADAPTER, checkpoint.adapter.folder, "", "", source=lambda: weights)


def named_components(candidate: Checkpoint, reference: Checkpoint) -> Mapping[str, Component]:
    """The candidate's components by the names that the reference gives them.

    Raises:
        BadInputError: the unnamed set of weights is no part of the reference.
        DamagedFileError: it cannot be read, so that nobody knows what it is.
    """
    return {
        name or _component_of(component, candidate, reference): component
        for name, component in candidate.components.items()
    }


def _component_of(component: Component, candidate: Checkpoint, reference: Checkpoint) -> str:
    names = {unwrapped(name) for name in component.weights.tensors}
    shares = {
        name: len(names & set(map(unwrapped, theirs.weights.tensors))) / max(1, len(names))
        for name, theirs in reference.components.items()
        if theirs.has_weights
    }
    if not shares:
        raise BadInputError(f"{reference.spec}: it has no weights that {candidate.spec} could be a part of")
    best = max(shares, key=lambda name: shares[name])
    if shares[best] < ENOUGH_NAMES:
        raise BadInputError(
            f"{candidate.spec}: {shares[best]:.0%} of its {len(names)} tensor names are known to the reference's "
            f"{best}, and to no other component more: it is not a part of {reference.spec}"
        )
    return best
