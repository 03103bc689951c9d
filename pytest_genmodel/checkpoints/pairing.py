"""Which component of a model a set of weights is, when the checkpoint itself does not say."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.errors import BadInputError

ENOUGH_NAMES = 0.3
"""Share of an unnamed set's tensor names that a component of the reference must know to be the one meant."""


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
        name: len(names & set(theirs.weights.tensors)) / max(1, len(names))
        for name, theirs in reference.components.items()
        if theirs.has_weights
    }
    best = max(shares, key=lambda name: shares[name])
    if shares[best] < ENOUGH_NAMES:
        raise BadInputError(
            f"{candidate.spec}: {shares[best]:.0%} of its {len(names)} tensor names are known to the reference's "
            f"{best}, and to no other component more: it is not a part of {reference.spec}"
        )
    return best
