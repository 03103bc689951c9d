"""seeded_sampling: the seed decides the sample, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.divergence import after_difference
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.samples import (
    SampleDifference,
    compare_samples,
    content_findings,
    sample_difference,
)
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.sampling import Sample
from pytest_genmodel.pipelines.tracing import Side
from pytest_genmodel.tensors import Tolerance
from pytest_genmodel.transformations.randomness import other_global_random_state

_STATES = (90_001, 90_002)


@invariant
def seeded_sampling(
    context: Context,
    *,
    seed: int | None = None,
    steps: int | None = None,
    frames: int | None = None,
    tolerance: Tolerance | str | None = None,
) -> Iterator[Finding]:
    """Same seed, same bits, whatever the global random state; another seed, another sample.

    Three pipeline runs when it holds; two more tell a global random state from plain randomness when it fails, and
    at most four say in which module the two part.
    `tolerance` (default: bitwise) is the limit between two runs of one seed.
    """
    pipeline, probe = context.candidate, context.probe.but(seed=seed, steps=steps, frames=frames)
    if probe.steps < 1:
        raise BadInputError(f"steps={probe.steps}: a sample takes at least one step")
    pipeline.family.check_size(
        pipeline.checkpoint, height=probe.height, width=probe.width, frames=probe.frames
    )
    first = pipeline.sample(probe)
    yield from content_findings(first)
    with other_global_random_state(_STATES[0]):
        again = pipeline.sample(
            probe, transformation="run again in another global random state", pinned=False
        )
    difference = compare_samples(context, "the same seed again", "GM501", again, first, tolerance)
    if difference is not None:
        finding = _not_repeatable(pipeline, probe, difference, tolerance)
        yield finding
        a, b = (Side(pipeline, partial(other_global_random_state, state), pinned=False) for state in _STATES)
        yield from after_difference(context, a, b, probe, (again, first), [finding])
    other = pipeline.sample(probe.but(seed=probe.seed + 1))
    if bool((other.latents == first.latents).all()):
        yield Finding(
            "GM503",
            f"the seeds {probe.seed} and {probe.seed + 1} give the same latents in all {probe.steps} steps",
            location="step 1",
        )
    context.measure(steps=probe.steps, frames=len(first.frames), seed=probe.seed)


def _not_repeatable(
    pipeline: Pipeline, probe: Probe, difference: SampleDifference, tolerance: Tolerance | str | None
) -> Finding:
    def run(count: int) -> Sample:
        with other_global_random_state(_STATES[1]):
            return pipeline.sample(
                probe, transformation=f"control run {count} in one global random state", pinned=False
            )

    follows_global_state = sample_difference(run(1), run(2), tolerance) is None
    if follows_global_state and pipeline.family.draws_globally:
        return Finding(
            "GM502",
            f"two runs with seed {probe.seed} differ ({difference.location}) unless torch's global random state is "
            f"the same too: {pipeline.checkpoint.pipeline_class} draws from it, whatever generator it is given",
            severity=Severity.NOTE,
            location=difference.location,
            cause="known of this class; the other claims are judged with the global state set by the seed",
            evidence=difference.evidence,
            action="Call torch.manual_seed before each call, beside the generator.",
        )
    return Finding(
        "GM502" if follows_global_state else "GM501",
        f"two runs with seed {probe.seed} differ: {difference.message}",
        location=difference.location,
        cause="two runs from one global random state agree: a call draws from the global generator"
        if follows_global_state
        else "runs differ even from one global random state: a generator of its own, or a kernel that is not "
        "deterministic",
        evidence=difference.evidence,
    )
