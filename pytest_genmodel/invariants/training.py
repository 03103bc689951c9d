"""zero_lr_identity and its dual, learning_moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.names import summarise, unwrapped
from pytest_genmodel.diagnosis.at_rest.adapter import up_factors
from pytest_genmodel.diagnosis.finding import Finding, finding_of, name_evidence
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants.configuration import same_config
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.coverage import coverage
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.samples import sample_difference
from pytest_genmodel.pipelines.equality import compare_stored
from pytest_genmodel.pipelines.loading import skeleton
from pytest_genmodel.pipelines.residents import residents, tie_groups
from pytest_genmodel.tensors import Tolerance, default_tolerance
from pytest_genmodel.training.habits import HABITS
from pytest_genmodel.training.observer import Observed
from pytest_genmodel.training.trainers import BUILT_IN, require_steps, trainer_named
from pytest_genmodel.transformations.train import Trained, TrainingRun, train

LINES_SHOWN = 8
"""Of what a trainer printed, and of the files it touched."""
LARGEST_QUICK = 200_000_000
"""Denoiser parameters up to which the built-in trainers run at the quick level."""

Trainer = str | Callable[..., Any]


def _check_values(parameters: Mapping[str, Any]) -> None:
    """Refuse an unknown trainer or a count of steps that trains nothing while tests are collected."""
    if "trainer" in parameters:
        trainer_named(parameters["trainer"])
    if "steps" in parameters:
        require_steps(parameters["steps"])


@invariant(check=_check_values)
def zero_lr_identity(context: Context, *, trainer: Trainer = "full", steps: int = 2) -> Iterator[Finding]:
    """Train at learning rate zero, save, load: weights and sample are what went in.

    The rate is proven, not believed: every optimizer step of the process is watched. A failure says where the
    model changed: in the optimizer, while saving, while loading, or in the sample alone.
    """
    trained = _train(context, trainer, lr=0.0, steps=steps)
    observed = trained.observed
    yield from run_findings(trained)
    if observed is not None:
        context.measure(steps=observed.steps, largest_rate=observed.largest_rate)
        yield from _rate_was_zero(observed)
        yield from _nothing_trained(observed)
        yield from _moved_at_zero(observed, context.candidate.family.denoiser)
    if trained.checkpoint is None:
        yield from _nothing_written(trained)
        return
    changed = False
    for name, difference in _differences(context, trained):
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
    after = _context_of(context, trained)
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


UNWATCHED = (
    "no process of the training run could be watched (none was a Python that imports torch in the environment that "
    "pytest-genmodel is installed in): that the optimizer took steps, at the rate that was asked for, is not proven"
)


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


def run_findings(trained: Trained) -> Iterator[Finding]:
    """How the trainer itself behaved: whether it came to its end, and whether it wrote where it must not."""
    ran = trained.ran
    if ran is not None and ran.status != 0:
        lines = "\n".join(ran.last_lines[-LINES_SHOWN:])
        yield Finding(
            "GM711",
            f"{ran.how_it_ended}; the last lines it printed:\n{lines}" if lines else ran.how_it_ended,
            location="trainer",
            evidence={"status": ran.status, "seconds": round(ran.seconds, 1), "lines": list(ran.last_lines)},
        )
    if trained.touched:
        yield Finding(
            "GM712",
            f"{len(trained.touched)} files of the model that it was given are others now: "
            f"{', '.join(trained.touched[:LINES_SHOWN])}",
            location=trained.touched[0],
            evidence={"files": list(trained.touched)},
        )


@invariant(check=_check_values)
def learning_moves(
    context: Context, *, trainer: Trainer = "full", lr: float = 1e-3, steps: int = 2
) -> Iterator[Finding]:
    """Train at a positive rate: exactly the claimed parameters move, and stay finite.

    The dual of zero_lr_identity, which frozen modules and rates that are always zero pass. Claimed is what the
    optimizer was given, and of a component that was written whole, each of its parameters.
    """
    trained = _train(context, trainer, lr=lr, steps=steps)
    yield from run_findings(trained)
    if trained.observed is not None:
        yield from _learned(context, trained.observed)
    if trained.checkpoint is None:
        yield from _nothing_written(trained)
        return
    if trained.written is not None and trained.written.adapter is not None:
        yield from _adapter_moved(trained)
    else:
        yield from _claimed_moved(context, trained)
    if trained.observed is None:
        context.cannot_judge(UNWATCHED)


def _learned(context: Context, observed: Observed) -> Iterator[Finding]:
    context.measure(steps=observed.steps, largest_rate=observed.largest_rate, moved=observed.moved)
    yield from _nothing_trained(observed)
    if not all(observed.finite_gradients):
        yield Finding("GM708", "gradients are NaN or Inf", location="optimizer")
    if observed.kept and observed.steps:
        yield Finding(
            "GM706",
            f"{observed.kept} of {observed.moved + observed.kept} parameters that the optimizer was given kept "
            f"every bit (largest rate seen: {observed.largest_rate:g})",
            component=context.candidate.family.denoiser,
            location="optimizer",
            cause="the rate was 0 in every step" if not observed.largest_rate else None,
        )


_REWIRED = "the trainer wrote another configuration than it was given"
_LOST = {"GM101", "GM103", "GM108", "GM201", "GM202", "GM203", "GM204", "GM205", "GM303", "GM801"}


def _train(context: Context, trainer: Trainer, *, lr: float, steps: int) -> Trained:
    pipeline = context.candidate
    if pipeline.checkpoint.adapter is not None:
        context.skip("the candidate is an adapter: the trainers start from a whole pipeline")
    denoiser = pipeline.checkpoint.components[pipeline.family.denoiser]
    size = sum(prod(tensor.shape) for tensor in denoiser.weights.tensors.values())
    if trainer in BUILT_IN and size > LARGEST_QUICK and not context.is_full:
        context.skip(
            f"the denoiser has {size / 1e9:.2g}e9 parameters: training it needs --genmodel-level=full"
        )
    pipeline.require_backed()
    if context.is_full:
        pipeline.sample(context.probe)  # now: a trainer in this process may leave something behind
    pipeline.release()  # the trainer loads a copy of its own: never two models in memory
    probe = context.probe
    run = TrainingRun(
        lr,
        steps,
        probe.seed,
        context.work_folder("training"),
        probe.prompt,
        context.policy.timeout,
        context.policy.echo,
    )
    trained = train(pipeline, trainer, run)
    context.measure(trainer=trained.trainer)
    return trained


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


def _nothing_trained(observed: Observed) -> Iterator[Finding]:
    if not observed.steps or not observed.learned:
        what = (
            "no optimizer took a step"
            if not observed.steps
            else "every gradient of every step was zero"
            if not any(observed.with_gradient)
            else "the optimizer's moments are all zero after steps with gradients: it never used them"
        )
        yield Finding("GM709", f"{what}, so that the run shows nothing", location="optimizer")


def _cause_of_movement(observed: Observed) -> str | None:
    if observed.largest_rate:
        return "the rate was not zero (GM701)"
    if not all(observed.finite_gradients):
        return "gradients were NaN or Inf, and 0 x Inf is NaN"
    habit = next((HABITS[name] for name in observed.optimizers if name in HABITS), None)
    return habit or "the optimizer moves at rate zero: it sets a rate, or a smallest step, of its own"


def _nothing_written(trained: Trained) -> Iterator[Finding]:
    """A run that broke off has said why already."""
    if trained.ran is None or trained.ran.status == 0:
        yield Finding("GM710", trained.problem or "the trainer wrote no checkpoint", location="output")


def _differences(context: Context, trained: Trained) -> Iterator[tuple[str, WeightDifference]]:
    assert trained.checkpoint is not None
    for name, before in context.candidate.checkpoint.components.items():
        after = trained.checkpoint.components.get(name)
        if before.has_weights and after is not None and after.has_weights:
            yield name, compare_stored(after, before)


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


def _context_of(context: Context, trained: Trained) -> Context:
    """The same run, with what was trained as the candidate."""
    assert trained.checkpoint is not None
    derived = context.candidate.derive(trained.checkpoint)
    return replace(context, candidate_source=lambda: derived, measurements={})


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
    denoiser = context.candidate.family.denoiser
    model = skeleton(context.candidate.checkpoint.components[denoiser])
    claimed = {name for name, _ in model.named_parameters()}
    tied = {name: group for group in tie_groups(residents(model)) for name in group}
    for name, difference in _differences(context, trained):
        moved = {unwrapped(tensor) for tensor in difference.changed}
        if name == denoiser:
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
