"""zero_lr_identity: training at learning rate zero leaves the model alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.diagnosis.finding import Finding, name_evidence
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants.configuration import same_config
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.coverage import coverage
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.samples import sample_difference
from pytest_genmodel.invariants.training_run import (
    UNWATCHED,
    Trainer,
    check_values,
    context_of,
    nothing_trained,
    nothing_written,
    run_findings,
    stored_differences,
    train_once,
)
from pytest_genmodel.tensors import Tolerance, default_tolerance
from pytest_genmodel.training.habits import HABITS
from pytest_genmodel.training.observer import Observed
from pytest_genmodel.transformations.train import Trained


@invariant(check=check_values)
def zero_lr_identity(context: Context, *, trainer: Trainer = "full", steps: int = 2) -> Iterator[Finding]:
    """Train at learning rate zero, save, load: weights and sample are what went in.

    The rate is proven, not believed: every optimizer step of the process is watched. A failure says where the
    model changed: in the optimizer, while saving, while loading, or in the sample alone.
    """
    trained = train_once(context, trainer, lr=0.0, steps=steps)
    observed = trained.observed
    yield from run_findings(trained)
    if observed is not None:
        context.measure(steps=observed.steps, largest_rate=observed.largest_rate)
        yield from _rate_was_zero(observed)
        yield from nothing_trained(observed)
        yield from _moved_at_zero(observed, context.candidate.family.denoiser)
    if trained.checkpoint is None:
        yield from nothing_written(trained)
        return
    changed = False
    for name, difference in stored_differences(context, trained):
        if difference.changed or difference.rounded or difference.missing:
            changed = True
            if observed is None or not observed.moved:
                yield _altered_by_save(name, difference, watched=observed is not None)
    if not changed:
        yield from _load_and_sample(context, trained)
    if observed is None:
        context.cannot_judge(UNWATCHED)


def _load_and_sample(context: Context, trained: Trained) -> Iterator[Finding]:
    """The file is right: is what is loaded from it, and what it samples?"""
    after = context_of(context, trained)
    lost = [finding for finding in coverage(after) if finding.code in _LOST]
    yield from lost
    if lost:
        yield Finding(
            "GM704",
            f"what was written holds every value that went in, and the loaded model does not ({lost[0].code})",
            component=lost[0].component,
            location=lost[0].location,
        )
        return
    wiring = list(same_config(replace(after, reference_source=context.candidate_source)))
    yield from (replace(finding, cause=finding.cause or _REWIRED) for finding in wiring)
    if not any(finding.severity is Severity.ERROR for finding in wiring):
        yield from _sample(context, trained)


def _moved_at_zero(observed: Observed, denoiser: str) -> Iterator[Finding]:
    total = observed.moved + observed.kept
    if observed.moved_inside:
        yield Finding(
            "GM702",
            f"{observed.moved_inside} of {total} trained parameters were changed by the optimizer's step (largest "
            f"rate seen: {observed.largest_rate:g}; optimizer: {', '.join(observed.optimizers)})",
            component=denoiser,
            location="optimizer",
            cause=_cause_of_movement(observed),
        )
    if observed.moved_outside:
        yield Finding(
            "GM713",
            f"{observed.moved_outside} of {total} trained parameters changed in memory while no optimizer was "
            "stepping",
            component=denoiser,
            location="training loop",
            cause="an EMA that is copied back, weight decay of the loop's own, a load or a cast in place",
        )


def _rate_was_zero(observed: Observed) -> Iterator[Finding]:
    for step, rates in enumerate(observed.rates, start=1):
        if any(rates):
            yield Finding(
                "GM701",
                f"the optimizer used the rate {max(rates):g} in step {step} of {observed.steps}; 0 was asked for",
                location=f"step {step}",
                cause="a default stands in for a value that counts as false (`lr or 1e-4`), or another "
                "configuration's rate was read",
                evidence={"rates": [list(step) for step in observed.rates[:20]]},
            )
            return


def _cause_of_movement(observed: Observed) -> str | None:
    if observed.largest_rate:
        return "the rate was not zero (GM701)"
    if not all(observed.finite_gradients):
        return "gradients were NaN or Inf, and 0 x Inf is NaN"
    habit = next((HABITS[name] for name in observed.optimizers if name in HABITS), None)
    return habit or "the optimizer moves at rate zero: it sets a rate, or a smallest step, of its own"


def _altered_by_save(name: str, difference: WeightDifference, *, watched: bool) -> Finding:
    names = [*difference.worst_first(), *difference.rounded, *difference.missing]
    what = "rounded" if difference.rounded else "missing" if difference.missing else "changed"
    likeness = difference.detail(names[0]).likeness if names[0] in difference.changed else None
    looks = f"; {names[0]}: {likeness.text}" if likeness else ""
    return Finding(
        "GM703",
        f"{'no parameter moved in memory, and ' if watched else ''}{len(names)} tensors of the file are {what}: "
        f"{summarise(names)}{looks}",
        component=name,
        location=names[0],
        cause=likeness.hint if likeness else None,
        evidence=name_evidence(names),
    )


def _sample(context: Context, trained: Trained) -> Iterator[Finding]:
    assert trained.checkpoint is not None
    assert trained.written is not None
    if trained.written.adapter is None and not context.is_full:
        context.measure(sample="proven equal: every stored tensor is equal, and the load is faithful")
        return
    before = context.candidate.sample(context.probe)
    derived = context.candidate.derive(trained.checkpoint)
    after = derived.sample(context.probe, transformation=f"train at zero ({trained.trainer})")
    placement = context.candidate.placement
    limit: Tolerance = default_tolerance(placement.torch_dtype, placement.device.split(":")[0])
    if difference := sample_difference(after, before, limit):
        yield Finding("GM705", difference.message, location=difference.location, cause=difference.cause)


_REWIRED = "the trainer wrote another configuration than it was given"
_LOST = {"GM101", "GM103", "GM108", "GM201", "GM202", "GM203", "GM204", "GM205", "GM303", "GM801"}
