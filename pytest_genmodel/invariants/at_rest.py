"""sound_weights: the candidate's files by themselves show none of the marks that faults leave."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.diagnosis.at_rest import SEEN_BY_COVERAGE, findings_at_rest
from pytest_genmodel.diagnosis.at_rest.experts import same_experts
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import Level, invariant


@invariant(level=Level.STATIC)
def sound_weights(context: Context) -> Iterator[Finding]:
    """The values are finite, filled and trained, the adapter says its strength, and no code lies among the weights.

    Needs no reference, and reads each weight of the candidate once (seconds, as fast as the disk). Parts that a
    partial candidate takes from the reference are not read. Names, shapes and files that are passed over are what
    `coverage` looks at; a file that cannot be read is for it to name, and makes this claim inconclusive.
    """
    checkpoint = context.candidate.checkpoint
    own = _own(context)
    unread: list[str] = []

    def remember(error: DamagedFileError, component: str | None) -> tuple[()]:
        unread.append(f"{component or error.path.parent.name}: {error}")
        return ()

    start = context.reference.checkpoint if context.has_reference else None
    yield from findings_at_rest(
        checkpoint,
        context.candidate.progress,
        only=own,
        start=start,
        leave_out=SEEN_BY_COVERAGE,
        on_damage=remember,
    )
    try:
        yield from same_experts(checkpoint, context.candidate.denoisers, start)
    except DamagedFileError as error:
        remember(error, None)
    parts = [
        component
        for name, component in checkpoint.components.items()
        if name in own and _holds_weights(component)
    ]
    count = sum(len(part.weights.tensors) for part in parts)
    count += len(checkpoint.adapter.weights.tensors) if checkpoint.adapter else 0
    context.measure(tensors_examined=count)
    if unread:
        context.cannot_judge(f"{unread[0]} (see coverage)")
    if not count:
        context.skip("the candidate has no weights of its own")


def _own(context: Context) -> set[str]:
    """The candidate's components, but for those whose files are the reference's."""
    checkpoint = context.candidate.checkpoint
    if not context.has_reference:
        return set(checkpoint.components)
    reference = context.reference.checkpoint
    if reference.root.resolve() == checkpoint.root.resolve():
        return set(checkpoint.components)
    theirs = {name: _files(component) for name, component in reference.components.items()}
    return {
        name
        for name, component in checkpoint.components.items()
        if not (files := _files(component)) or files != theirs.get(name)
    }


def _files(component: Component) -> tuple[str, ...]:
    try:
        return tuple(str(path.resolve()) for s in component.file_sets[:1] for path in s.files)
    except DamagedFileError:
        return ()


def _holds_weights(component: Component) -> bool:
    try:
        return component.has_weights and component.weights is not None
    except DamagedFileError:
        return False
