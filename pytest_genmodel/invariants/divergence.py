"""first_divergence and swap_bisection: where two samples part, and which difference carries the damage.

On request (`--genmodel-trace`), and after a comparison of samples that failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.divergence import Found, find_divergence
from pytest_genmodel.diagnosis.divergence_finding import (
    NOTHING,
    Allowed,
    divergence_finding,
    unseen_finding,
)
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.diagnosis.swaps import swap_finding, table
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.pipelines.curves import agree, curves, first_step_apart
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.sampling import Sample
from pytest_genmodel.pipelines.tracing import Side
from pytest_genmodel.transformations.bisection import bisect
from pytest_genmodel.transformations.swaps import ADAPTER, WEIGHTS, WHOLE, Part, differing_parts


@invariant(needs_reference=True)
def first_divergence(
    context: Context, *, seed: int | None = None, steps: int | None = None, frames: int | None = None
) -> Iterator[Finding]:
    """Where the candidate's sample parts from the reference's, it is the contract that lets it.

    Names the first module whose inputs agree and whose outputs do not, and what differs in it. Costs a sample a side,
    which other claims share, and two runs a side that stop where the samples part; none where contents are equal.
    """
    candidate, reference = context.candidate, context.reference
    probe = context.probe.but(seed=seed, steps=steps, frames=frames)
    if candidate.digest == reference.digest and not context.is_full:
        context.measure(proven="equal content: nothing diverges")
        return
    theirs = reference.sample(probe)
    ours = candidate.sample(probe)
    context.measure(divergence=curves(ours, theirs), steps=probe.steps)
    if agree(ours, theirs):
        context.measure(proven="latents and frames are equal bit by bit")
        return
    found, failed = _traced(context, Side(candidate), Side(reference), probe, ours, theirs)
    if failed is not None:
        context.cannot_judge(failed)
    if found is not None:
        context.measure(events_compared=found.compared)
        yield from _findings(found, _allowed(context), Severity.ERROR)


@invariant(needs_reference=True)
def swap_bisection(
    context: Context, *, seed: int | None = None, steps: int | None = None, frames: int | None = None
) -> Iterator[Finding]:
    """Of several parts in which candidate and reference differ, none carries damage that the contract forbids.

    Exchanges components, configuration keys and arguments one by one. Two samples for each part, two in all for two
    parts; calls that are equal in several samples are made once.
    """
    probe = context.probe.but(seed=seed, steps=steps, frames=frames)
    parts = differing_parts(context.candidate.checkpoint, context.reference.checkpoint)
    context.measure(parts=[part.name for part in parts])
    if len(parts) < 2:
        what = f"one part ({parts[0].name})" if parts else "no part"
        context.skip(f"candidate and reference differ in {what}: there is nothing to tell apart")
    yield from _swapped(context, probe, parts, Severity.ERROR)


def after_difference(
    context: Context,
    ours: Side,
    theirs: Side,
    probe: Probe,
    samples: tuple[Sample, Sample],
    found: Sequence[Finding],
) -> Iterator[Finding]:
    """Follow up a comparison of samples that failed: where the two part; at level full also which part carries it.

    Costs two runs a side, which stop where the samples part. Whatever goes wrong here is passed over: the verdict
    stands without it.

    Args:
        context: of the claim that failed.
        ours, theirs: what was sampled, in the circumstances in which it was sampled.
        probe: the inputs.
        samples: the two samples.
        found: what the comparison found; its worst severity is that of what is added.
    """
    severity = _worst(found)
    if severity is None:
        return
    pair = ours.pipeline, theirs.pipeline
    is_judged = context.has_reference and pair == (context.candidate, context.reference)
    allowed = _allowed(context) if is_judged else NOTHING
    traced, _ = _traced(context, ours, theirs, probe, *samples)
    if traced is not None:
        yield from _findings(traced, allowed, severity)
    if is_judged and context.is_full:
        try:
            parts = differing_parts(ours.pipeline.checkpoint, theirs.pipeline.checkpoint)
            if len(parts) >= 2:
                yield from _swapped(context, probe, parts, severity)
        except GenmodelError as error:
            context.measure(swap_bisection=first_line(error))


def _worst(found: Sequence[Finding]) -> Severity | None:
    for severity in (Severity.ERROR, Severity.WARNING):
        if any(finding.severity is severity for finding in found):
            return severity
    return None


def _traced(
    context: Context, ours: Side, theirs: Side, probe: Probe, sample: Sample, other: Sample
) -> tuple[Found | None, str | None]:
    """The search, once in a session for the same two and the same probe; else why it could not be made."""
    until = first_step_apart(sample, other)
    latents_agree = until is None and sample.latents.shape == other.latents.shape
    plain = ours.around is Side.around and theirs.around is Side.around
    key = ("divergence", ours.pipeline.digest, theirs.pipeline.digest, probe.key) if plain else None
    if key is not None and key in context.shared:
        found: Found = context.shared[key]
        return found, None
    try:
        found = find_divergence(ours, theirs, probe, until, latents_agree=latents_agree)
        if not found.divergences and (until is not None or latents_agree):
            found = find_divergence(ours, theirs, probe)  # a scheduler may take several steps for one
    except GenmodelError as error:
        return None, first_line(error)
    if key is not None:
        context.shared[key] = found
    return found, None


def _findings(found: Found, allowed: Allowed, severity: Severity) -> Iterator[Finding]:
    if not found.divergences:
        yield unseen_finding(found.compared)
    for divergence in found.divergences:
        yield divergence_finding(divergence, allowed, severity)


def _allowed(context: Context) -> Allowed:
    contract = context.contract
    return Allowed(
        lambda component: contract.of(component) is not Change.FORBIDDEN,
        contract.adapter is not Change.FORBIDDEN,
    )


def _swapped(context: Context, probe: Probe, parts: Sequence[Part], severity: Severity) -> Iterator[Finding]:
    allowed, workdir = _allowed(context), context.work_folder("swaps")
    found = bisect(context.candidate, context.reference, probe, parts, workdir)
    if found is None:
        context.measure(swap_bisection="the samples are equal: nothing carries damage")
        return
    context.measure(swap_bisection=table(found))

    def may_differ(part: Part) -> bool:
        if part.kind == ADAPTER:
            return allowed.adapter
        return part.kind in (WHOLE, WEIGHTS) and allowed.weights(part.component)

    finding = swap_finding(found, may_differ, severity)
    if finding is None:
        context.cannot_judge(f"no part runs by itself in the other model ({found.swaps[0].problem})")
    yield finding
