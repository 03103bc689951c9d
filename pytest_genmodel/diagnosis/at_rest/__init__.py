"""Findings at rest: what a checkpoint's files show by themselves, without a model and without a reference.

A check is one function that yields findings, in one of the lists below, and its rule. Order matters: the check
nearest to the root cause comes first, and marks the tensors that it has spoken of (`Part.told`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.diagnosis.at_rest import (
    adapter,
    adapter_promises,
    adapter_size,
    adapters_below,
    ema,
    files,
    lacking,
    latent_statistics,
    names,
    quantized,
    repeated,
    stated,
    values,
)
from pytest_genmodel.diagnosis.at_rest.ema import ema_findings
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.damage import damage_finding
from pytest_genmodel.diagnosis.finding import Finding

__all__ = ["ema_findings", "findings_at_rest"]

CHECKPOINT_CHECKS: tuple[Callable[[Checkpoint], Iterator[Finding]], ...] = (
    files.foreign_classes,
    lacking.lacking,
    files.scripts,
    files.strays,
    adapters_below.adapters_below,
)
FOLDER_CHECKS: tuple[Callable[[Component], Iterator[Finding]], ...] = (
    files.second_sets,
    files.other_variants,
    files.lone_shard,
    files.index_and_shards,
    files.code_asked_for,
)
WEIGHT_CHECKS: tuple[Callable[[Part], Iterator[Finding]], ...] = (
    names.placeholders,
    names.wrapped_names,
    names.foreign_components,
    names.untranslated,
    names.scaled_8bit,
    names.lost_ties,
    names.different_ties,
    values.not_finite,
    latent_statistics.latent_statistics,
    values.zeros,
    values.holes,
    values.constants,
    values.fresh,
    repeated.repeated,
    quantized.quantized,
    values.narrow_values,
    values.beyond_float16,
)
ADAPTER_CHECKS: tuple[Callable[[Part, Adapter], Iterator[Finding]], ...] = (
    adapter.halves,
    adapter.alpha,
    adapter.partial,
    adapter.not_finite,
    adapter.untrained,
    adapter.repeated,
    adapter_promises.kept_promises,
    adapter_size.scale,
    adapter_size.proportion,
)
SEEN_BY_COVERAGE: frozenset[Callable[..., Any]] = frozenset(
    (
        files.foreign_classes,
        lacking.lacking,
        files.strays,
        files.second_sets,
        names.placeholders,
        names.wrapped_names,
        names.foreign_components,
        names.lost_ties,
        adapter.halves,
    )
)
"""What the invariant `coverage` finds too, and can say more of, as it knows the model that the names are for."""

OnDamage = Callable[[DamagedFileError, "str | None"], Iterable[Finding]]


def _tell(error: DamagedFileError, component: str | None) -> Iterable[Finding]:
    return (damage_finding(error, component),)


@dataclass(frozen=True)
class _Examination:
    leave_out: frozenset[Callable[..., Any]]
    on_damage: OnDamage
    progress: Progress

    def run(
        self, checks: Iterable[Callable[..., Iterator[Finding]]], name: str | None, *of: Any
    ) -> Iterator[Finding]:
        """Run the checks that are not left out; a file that cannot be read ends them."""
        try:
            for check in checks:
                if check not in self.leave_out:
                    yield from check(*of)
        except DamagedFileError as error:
            yield from self.on_damage(error, name)


def findings_at_rest(
    checkpoint: Checkpoint,
    progress: Progress = silent,
    *,
    only: Collection[str] | None = None,
    start: Checkpoint | None = None,
    leave_out: frozenset[Callable[..., Any]] = frozenset(),
    on_damage: OnDamage = _tell,
) -> Iterator[Finding]:
    """Say what is wrong with a checkpoint as its files lie there. Reads each component's weights once, as a stream.

    Args:
        checkpoint: what to examine.
        progress: told how far the reading is.
        only: the components to examine, where not all of them are the checkpoint's own.
        start: the model that training started from, where it is known; an average (EMA) is held against it.
        leave_out: checks that somebody else makes, for example `SEEN_BY_COVERAGE`.
        on_damage: what to yield for a file that cannot be read (with the component's name); a finding by default.
    """
    examination = _Examination(leave_out, on_damage, progress)
    yield from examination.run(CHECKPOINT_CHECKS, None, checkpoint)
    for name, component in checkpoint.components.items():
        if only is not None and name not in only:
            continue
        try:
            has_weights = component.has_weights
        except DamagedFileError as error:  # a shard index that is broken
            yield from on_damage(error, name or None)
            continue
        yield from examination.run(FOLDER_CHECKS, name or None, component)
        base = start.components.get(name) if start is not None else None
        yield from examination.run((stated.stated_dtype,), name or None, component, base)
        if has_weights:
            yield from examination.run(WEIGHT_CHECKS, name or None, Part(name, component, progress))
    yield from ema.averages_beside(checkpoint, start, progress)
    if checkpoint.adapter is not None:
        name = adapter.adapted_component(checkpoint)
        base = checkpoint.components.get(name)
        part = Part(name, base, progress, own_weights=checkpoint.adapter.weights)
        yield from examination.run(ADAPTER_CHECKS, name, part, checkpoint.adapter)
