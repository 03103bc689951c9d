"""learning_moves: training at a positive rate moves what it claims to train, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_genmodel.checkpoints.names import summarise, unwrapped
from pytest_genmodel.diagnosis.at_rest.adapter import up_factors
from pytest_genmodel.diagnosis.finding import Finding, finding_of, name_evidence
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.learning_facts import process_findings, step_findings, unsaved_findings
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.training_run import (
    Trainer,
    cannot_witness,
    check_values,
    is_witnessed,
    nothing_written,
    run_findings,
    steps_findings,
    stored_differences,
    train_once,
)
from pytest_genmodel.pipelines.loading import skeleton
from pytest_genmodel.pipelines.residents import residents, tie_groups
from pytest_genmodel.training.observer import Observed
from pytest_genmodel.transformations.train import Trained


@invariant(check=check_values)
def learning_moves(
    context: Context, *, trainer: Trainer = "full", lr: float = 1e-3, steps: int = 2
) -> Iterator[Finding]:
    """Train at a positive rate: exactly the claimed parameters move, and stay finite.

    The dual of zero_lr_identity, which frozen modules and rates that are always zero pass. Claimed is what the
    optimizer was given, and of a component that was written whole, each of its parameters.
    """
    trained = train_once(context, trainer, lr=lr, steps=steps)
    if lacking := _lacking(trained.observed, steps):
        # A new adapter needs two steps that move: its first moves lora_B alone.
        trained = train_once(context, trainer, lr=lr, steps=steps + lacking)
    yield from run_findings(trained)
    yield from steps_findings(context, trained)
    if trained.observed is not None and trained.observed.steps:
        yield from _learned(context, trained.observed, lr)
        yield from step_findings(trained.observed)
        yield from process_findings(context, trained)
    if trained.checkpoint is None:
        yield from nothing_written(trained)
        return
    is_adapter = trained.written is not None and trained.written.adapter is not None
    still = list(_adapter_moved(trained) if is_adapter else _claimed_moved(context, trained))
    yield from still
    if not still:
        yield from unsaved_findings(context, trained)
    if not is_witnessed(trained):
        cannot_witness(context, trained)


def _lacking(observed: Observed | None, steps: int) -> int:
    """How many of the steps could move nothing, where some parameters kept still for it: a schedule that warms up
    begins at rate zero, and a GradScaler passes over its first steps."""
    if observed is None or not observed.kept or not observed.largest_rate:
        return 0
    at_zero = next(step for step, rates in enumerate(observed.rates) if any(rates))
    return at_zero + max(0, steps - observed.steps)


def _learned(context: Context, observed: Observed, lr: float) -> Iterator[Finding]:
    context.measure(moved=observed.moved)
    if not all(observed.finite_gradients):
        yield Finding("GM708", "gradients are NaN or Inf", location="optimizer")
    if observed.kept and observed.steps:
        yield Finding(
            "GM706",
            f"{observed.kept} of {observed.moved + observed.kept} parameters that the optimizer was given kept "
            f"every bit (largest rate seen: {observed.largest_rate:g})",
            component=context.candidate.family.denoiser,
            location="optimizer",
            cause=_cause_of_stillness(observed.largest_rate, lr),
        )


def _cause_of_stillness(largest: float, lr: float) -> str | None:
    if not largest:
        return "the rate was 0 in every step"
    if largest < lr / 10:
        return (
            f"a schedule that warms up: the rate was {largest:g} where {lr:g} was asked for, less than these weights "
            "can follow in so few steps; turn the warm-up off in the command, or give more steps"
        )
    return None


def _adapter_moved(trained: Trained) -> Iterator[Finding]:
    assert trained.written is not None
    assert trained.written.adapter is not None
    weights = trained.written.adapter.weights
    ups = up_factors(weights.tensors)
    if not ups:
        yield Finding(
            "GM706",
            f"the adapter holds no up factor (lora_B, lora_up), so that it changes nothing: "
            f"{summarise(weights.tensors) or 'the file is empty'}",
            location=trained.written.adapter.file.name,
            evidence=name_evidence(list(weights.tensors)),
        )
    still = [name for name in ups if not bool(weights.read(name).any())]
    if still:
        yield finding_of(
            "GM706",
            still,
            "(lora_B, lora_up) are zero in the file",
            of=len(ups),
            noun="up factors",
        )
    yield from _not_finite("adapter", weights)


def _claimed_moved(context: Context, trained: Trained) -> Iterator[Finding]:
    differences = dict(stored_differences(context, trained))
    denoisers = context.candidate.denoisers
    # Of several experts a run may train one alone: those that are as they were are not claimed, if any moved.
    trained_ones = [name for name in denoisers if name in differences and differences[name].changed]
    for name, difference in differences.items():
        moved = {unwrapped(tensor) for tensor in difference.changed}
        if name in (trained_ones or denoisers):
            model = skeleton(context.candidate.checkpoint.components[name])
            claimed = {parameter for parameter, _ in model.named_parameters()}
            tied = {alias: group for group in tie_groups(residents(model)) for alias in group}
            moved = {alias for tensor in moved for alias in tied.get(tensor, (tensor,))}
            if kept := sorted(claimed - moved - set(difference.missing)):
                yield finding_of(
                    "GM706",
                    kept,
                    "are in the file as they went in",
                    of=len(claimed),
                    noun="parameters",
                    component=name,
                )
            moved -= claimed | {alias for tensor in claimed for alias in tied.get(tensor, ())}
            yield from _not_finite(name, trained.checkpoint.components[name].weights)  # type: ignore[union-attr]
        if moved:
            yield finding_of("GM707", sorted(moved), "changed that are not trained", component=name)


def _not_finite(component: str, weights: Any) -> Iterator[Finding]:
    names = [name for name in weights.tensors if not bool(weights.read(name).isfinite().all())]
    if names:
        yield finding_of("GM708", names, "hold NaN or Inf", component=component)
