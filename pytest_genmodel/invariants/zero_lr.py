"""zero_lr_identity: training at learning rate zero leaves the model alone."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.diagnosis.at_rest.adapter import up_factors
from pytest_genmodel.diagnosis.finding import Finding, finding_of, name_evidence
from pytest_genmodel.diagnosis.limit import beyond_tolerance, rounding_to
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants.configuration import same_config
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.cost import LARGEST_QUICK, denoiser_size
from pytest_genmodel.invariants.coverage import coverage
from pytest_genmodel.invariants.divergence import after_difference
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.samples import compare_samples
from pytest_genmodel.invariants.training_run import (
    Trainer,
    cannot_witness,
    check_values,
    context_of,
    is_witnessed,
    not_its_own,
    nothing_written,
    run_findings,
    steps_findings,
    stored_differences,
    train_once,
)
from pytest_genmodel.pipelines.tracing import Side
from pytest_genmodel.tensors import Tolerance, default_tolerance
from pytest_genmodel.training.complaints import complaint_of
from pytest_genmodel.training.habits import counts_as_zero, habit_of
from pytest_genmodel.training.observer import Observed
from pytest_genmodel.transformations.start import Start, started_from
from pytest_genmodel.transformations.train import Trained, TrainerError


@invariant(check=check_values)
def zero_lr_identity(
    context: Context,
    *,
    trainer: Trainer = "full",
    steps: int = 2,
    tolerance: Tolerance | str | None = None,
) -> Iterator[Finding]:
    """Train at learning rate zero, save, load: weights and sample are what went in.

    The rate is proven, not believed: every optimizer step of the process is watched, else the optimizer's files are
    read, and where neither shows that what was trained was saved, a run at a positive rate must change something.
    A failure says where the model changed: in the optimizer or the loop, at the trainer's own load, while saving,
    while loading, or in the sample alone. `tolerance` (default: that of the dtype and device) is the limit between
    the samples; what is written is held to the bit.
    """
    for number, finding in enumerate(_identity(context, trainer, steps, tolerance)):
        place = PLACES.get(finding.code) or ("the configuration" if finding.code.startswith("GM4") else None)
        if place is None:
            yield finding
            continue
        if not number or "changed_at" not in context.measurements:
            context.measure(changed_at=place)
        yield replace(finding, evidence={**finding.evidence, "place": place})


def _identity(
    context: Context, trainer: Trainer, steps: int, tolerance: Tolerance | str | None
) -> Iterator[Finding]:
    trained = _trained_at_zero(context, trainer, steps)
    observed = trained.observed
    doubts = [*run_findings(trained), *_rate_was_zero(trained), *steps_findings(context, trained)]
    if observed is not None:
        doubts += _moved_at_zero(observed, context.candidate.family.denoiser)
    doubts += not_its_own(trained)
    yield from doubts
    if trained.checkpoint is None:
        yield from nothing_written(trained)
        return
    differences = dict(stored_differences(context, trained))
    context.measure(components={name: _counts(difference) for name, difference in differences.items()})
    changed = {name: one for name, one in differences.items() if one.changed or one.rounded or one.missing}
    start = None
    is_adapter = trained.written is not None and trained.written.adapter is not None
    if (
        observed is not None
        and not is_adapter
        and (changed or context.is_full or denoiser_size(context) <= LARGEST_QUICK)
    ):
        start = started_from(context.candidate, observed)  # reads the denoiser once more
    if start is not None:
        context.measure(in_process=start.text)
    if changed and (observed is None or not observed.moved):
        denoisers = context.candidate.denoisers
        for name, difference in sorted(changed.items(), key=lambda item: item[0] not in denoisers):
            if start is not None and start.unlike and name in denoisers:
                yield _started_elsewhere(name, start)
            else:
                yield _altered_by_save(name, difference, watched=observed is not None and observed.steps > 0)
    if changed:
        return
    acting = list(_acts_untrained(trained)) if observed is not None and not observed.moved else []
    broken = acting or list(_load_and_sample(context, trained, tolerance))
    yield from broken
    fails = any(finding.severity is Severity.ERROR for finding in (*doubts, *broken))
    if not fails and not trained.own:
        control = list(_control(context, trainer))
        yield from control
        fails = bool(control)
    if not is_witnessed(trained) and not fails:
        cannot_witness(context, trained, "; a run at a positive rate does change what is written")


def _acts_untrained(trained: Trained) -> Iterator[Finding]:
    """An adapter that nothing moved must change nothing: one of each two factors is zero."""
    adapter = trained.written.adapter if trained.written is not None else None
    if adapter is None:
        return
    ups = up_factors(adapter.weights.tensors)
    acting = [name for name in ups if bool(adapter.weights.read(name).any())]
    if acting:
        yield finding_of(
            "GM716",
            acting,
            "(lora_B, lora_up) are not zero though no step moved them: the model is another before it learns",
            of=len(ups),
            noun="up factors",
            component="adapter",
            cause="init_lora_weights other than True (False, pissa, olora ...), or an older adapter",
        )


def _trained_at_zero(context: Context, trainer: Trainer, steps: int) -> Trained:
    rate = context.policy.zero_rate
    try:
        return train_once(context, trainer, lr=rate, steps=steps)
    except TrainerError as error:
        lines = traceback.format_exception(error.__cause__) if error.__cause__ is not None else [str(error)]
        complaint = complaint_of("".join(lines).splitlines(), rate=rate)
        if complaint is None:
            raise
        raise TrainerError(f"{error}: {complaint.cause}. {complaint.action}") from error


def _counts(difference: WeightDifference) -> dict[str, int]:
    return {
        "tensors": difference.compared,
        "changed": len(difference.changed),
        "rounded": len(difference.rounded),
        "missing": len(difference.missing),
    }


def _control(context: Context, trainer: Trainer) -> Iterator[Finding]:
    """At a positive rate something must change: else the trainer saves what it was given, whatever the rate."""
    control = train_once(context, trainer, lr=CONTROL_RATE, steps=CONTROL_STEPS)
    failed = control.ran is not None and control.ran.status != 0
    if failed or control.checkpoint is None or control.written is None:
        why = control.ran.how_it_ended if failed and control.ran is not None else control.problem
        context.cannot_judge(f"the control run at lr {CONTROL_RATE:g} gave no result to compare with ({why})")
    if control.written.adapter is not None:
        weights = control.written.adapter.weights
        moved = sum(bool(weights.read(name).any()) for name in up_factors(weights.tensors))
    else:
        moved = sum(len(difference.changed) for _, difference in stored_differences(context, control))
    context.measure(control=f"at lr {CONTROL_RATE:g} {moved} tensors of what was written are others")
    if not moved:
        yield Finding(
            "GM709",
            f"a control run at the rate {CONTROL_RATE:g} left every tensor as it was too, so that the run at rate 0 "
            "shows nothing",
            location="output",
            cause="the trainer saves the model that it was given (not the copy that it trains), or never trains",
        )


def _load_and_sample(
    context: Context, trained: Trained, tolerance: Tolerance | str | None
) -> Iterator[Finding]:
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
        yield from _sample(context, trained, tolerance)


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


def _rate_was_zero(trained: Trained) -> Iterator[Finding]:
    observed, state = trained.observed, trained.state
    cause = "a default stands in for a value that counts as false (`lr or 1e-4`), or another configuration is read"
    for step, rates in enumerate(observed.rates if observed is not None else (), start=1):
        if not all(counts_as_zero(rate) for rate in rates):
            assert observed is not None
            yield Finding(
                "GM701",
                f"the optimizer used the rate {max(rates):g} in step {step} of {observed.steps}; 0 was asked for",
                location=f"step {step}",
                cause=_OWN_RATE if any(map(counts_as_zero, rates)) else cause,
                evidence={"rates": [list(step) for step in observed.rates[:20]]},
            )
            return
    for file, rate in state.rates if state is not None else ():
        if not counts_as_zero(rate):
            yield Finding(
                "GM701",
                f"the run's own {file} says that the optimizer used the rate {rate:g}; 0 was asked for",
                location=file,
                cause=cause,
            )
            return


def _cause_of_movement(observed: Observed) -> str | None:
    if not counts_as_zero(observed.largest_rate):
        return "the rate was not zero (GM701)"
    if not observed.finite_gradients[0]:
        return "gradients were NaN or Inf, and 0 x Inf is NaN"
    if habit := habit_of(observed):
        return habit
    if not all(observed.finite_gradients):
        return "gradients were NaN or Inf, and 0 x Inf is NaN"
    return "the optimizer moves at rate zero: it sets a rate, or a smallest step, of its own"


def _started_elsewhere(component: str, start: Start) -> Finding:
    return Finding(
        "GM716",
        f"nothing moved during training, and {start.unlike} of {start.compared} parameters had other values than the "
        "model that was given before the first step was taken",
        component=component,
        location="the trainer's load",
        cause=start.cause,
        evidence={"compared": start.compared, "unlike": start.unlike, "rounded": start.rounded},
    )


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
        evidence={**name_evidence(names), **_apart(difference)},
    )


def _apart(difference: WeightDifference) -> dict[str, Any]:
    """How far the tensors are that were changed, or rounded; no distance where some are missing."""
    if difference.missing:
        return {}
    changed = [difference.changed[name] for name in difference.worst_first()]
    if difference.rounded:
        return rounding_to(next(iter(difference.rounded.values())), also=changed)
    return beyond_tolerance(changed)


def _sample(context: Context, trained: Trained, tolerance: Tolerance | str | None) -> Iterator[Finding]:
    assert trained.checkpoint is not None
    assert trained.written is not None
    if trained.written.adapter is None and not context.is_full:
        context.measure(
            sample="proven equal: every stored tensor is equal, and the load is faithful (a sample: at level full)"
        )
        return
    before = context.candidate.sample(context.probe)
    derived = context.candidate.derive(trained.checkpoint)
    after = derived.sample(context.probe, transformation=f"train at zero ({trained.trainer})")
    placement = context.candidate.placement
    limit = tolerance or default_tolerance(placement.torch_dtype, placement.device.split(":")[0])
    if difference := compare_samples(
        context, "trained at rate zero", "GM705", after, before, limit, ends=True
    ):
        finding = difference.finding("GM705")
        yield finding
        sides = Side(derived), Side(context.candidate)
        yield from after_difference(context, *sides, context.probe, (after, before), [finding])
    else:
        context.measure(
            sample=f"latents of {len(after.latents)} steps and {len(after.frames)} frames agree (limit: {limit})"
        )


_OWN_RATE = "one of several parameter groups, optimizers or processes has a rate of its own"
_REWIRED = "the trainer wrote another configuration than it was given"
CONTROL_RATE, CONTROL_STEPS = 1e-3, 2
"""As learning_moves has them, so that one run serves both."""
_LOST = {"GM101", "GM103", "GM108", "GM201", "GM202", "GM203", "GM204", "GM205", "GM303", "GM801"}
PLACES = {
    "GM701": "the optimizer",
    "GM702": "the optimizer",
    "GM713": "the training loop",
    "GM716": "the trainer's load",
    "GM703": "the save",
    "GM704": "the load",
    **dict.fromkeys(_LOST, "the load"),
    "GM705": "the inference wiring",
}
"""Where the model changed, by the code of the finding that shows it."""
