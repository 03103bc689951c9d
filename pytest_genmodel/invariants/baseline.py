"""What a baseline is held against: the reference it was made of, and the sample that the same model must give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.configuration import configuration_findings
from pytest_genmodel.diagnosis.difference import difference_findings
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import Level, invariant
from pytest_genmodel.pipelines.calibration import LARGEST, surroundings
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.tokens import token_differences

if TYPE_CHECKING:
    from pytest_genmodel.baselines.observations import Recorded
    from pytest_genmodel.baselines.stand_in import StoredReference
    from pytest_genmodel.pipelines.sampling import Sample

_NO_BASELINE = "no baseline of a reference was given (--genmodel-baseline)"


@invariant(level=Level.STATIC, needs_reference=True)
def baseline_is_current(context: Context) -> Iterator[Finding]:
    """The baseline was made of this reference: weights, effective configuration, tokens, and its sample.

    Judged where both are given. Equality is by digests; the sample is compared at the quick level and above.
    """
    baseline, reference = context.baseline, context.reference
    if baseline is None:
        context.skip(_NO_BASELINE)
    told = False
    for finding in _changes(baseline, reference):
        if finding.severity is not Severity.NOTE:
            told = True
            yield _stale(baseline, finding)
    context.measure(components_compared=len(baseline.checkpoint.components))
    if told or not context.policy.level.allows(Level.QUICK):
        return
    recorded = baseline.sample(context.probe)
    if recorded is None:
        context.measure(sample="not compared: the baseline holds none of this probe")
    elif (
        found := _apart(context, reference.sample(context.probe), recorded, baseline, reference)
    ) is not None:
        yield found


def _changes(baseline: StoredReference, reference: Pipeline) -> Iterator[Finding]:
    ours, theirs = reference.checkpoint.components, baseline.checkpoint.components
    for name in dict.fromkeys((*theirs, *ours)):
        if name not in ours or name not in theirs:
            had = "has" if name in ours else "had"
            yield Finding(
                "GM020", f"only the one of {'today' if had == 'has' else 'then'} {had} a {name}", name
            )
            continue
        component, recorded = ours[name], theirs[name]
        if component.has_weights and recorded.has_weights:
            difference = baseline.difference(component, name, reference.progress)
            yield from difference_findings(name, difference, Change.FORBIDDEN)
        yield from configuration_findings(component, recorded)
        tokens = baseline.tokens(name)
        if tokens is not None:
            for found in token_differences(reference.component(name), tokens):
                yield Finding(
                    "GM020", f"{found.what[:60]!r} gives other tokens", name, location=found.location(name)
                )


def _stale(baseline: StoredReference, finding: Finding) -> Finding:
    return replace(
        finding,
        code="GM020",
        severity=Severity.ERROR,
        message=f"against {baseline.path.name}, made of {baseline.spec}: {finding.message}",
        cause="the reference was changed, or another is given, since the baseline was made",
        action="Where that is meant, make it again: pytest --genmodel-ref=... "
        f"--genmodel-baseline={baseline.path} --genmodel-update-baseline",
    )


@invariant(needs_reference=False)
def sample_as_before(context: Context) -> Iterator[Finding]:
    """The model of the baseline gives the sample of the baseline: latents of every step on record, then frames.

    Where weights and configuration are equal by digest, only the program can make another sample: a version of a
    library, a kernel, this machine. Bitwise in the environment that the baseline was made in; elsewhere within what
    rounding makes of it. Another model than the baseline's may give another sample: then it is skipped.
    """
    baseline, candidate = context.baseline, context.candidate
    if baseline is None:
        context.skip(_NO_BASELINE)
    if candidate.digest != baseline.digest:
        context.skip("the candidate is another model than the baseline's, and may give another sample")
    recorded = baseline.sample(context.probe)
    if recorded is None:
        context.skip("the baseline holds no sample of this probe")
    if (found := _apart(context, candidate.sample(context.probe), recorded, baseline, candidate)) is not None:
        yield found


def _apart(
    context: Context, sample: Sample, recorded: Recorded, baseline: StoredReference, pipeline: Pipeline
) -> Finding | None:
    """The first step, else the first frame, that is further from the one on record than it may be."""
    now = surroundings(pipeline.placement)
    changed = {
        key: (baseline.environment.get(key), now[key])
        for key in now
        if baseline.environment.get(key) != now[key]
    }
    exact = not changed and pipeline.placement.device == "cpu"
    relative = 0.0 if exact else LARGEST[pipeline.placement.dtype]
    context.measure(limit=relative, environment="the same" if not changed else _listed(changed))
    if len(sample.latents) != recorded.steps:
        return _other(
            f"{len(sample.latents)} steps were seen, and {recorded.steps} are on record", "latents", changed
        )
    worst = 0.0
    for step, theirs in sorted(recorded.latents.items()):
        ours = sample.latents[step - 1]
        if ours.shape != theirs.shape:
            return _other(
                f"the latents are {list(ours.shape)}, and were {list(theirs.shape)}", f"step {step}", changed
            )
        scale = float(theirs.abs().max()) or 1.0
        away = float((ours - theirs).abs().max()) / scale
        worst = max(worst, away)
        if not away <= relative:
            return _other(
                f"from step {step} of {recorded.steps} on the latents differ by {away:.3g} of their largest value "
                f"(limit {relative:g})",
                f"step {step}",
                changed,
                {"error": away, "limit": relative},
            )
    context.measure(latents_error=worst)
    return _frames_apart(context, sample, recorded, relative, changed)


def _frames_apart(
    context: Context,
    sample: Sample,
    recorded: Recorded,
    relative: float,
    changed: dict[str, tuple[str | None, str]],
) -> Finding | None:
    import torch

    from pytest_genmodel.baselines.observations import LEVELS, in_levels

    if recorded.frames is None:
        context.measure(frames="not compared: too large for the baseline")
        return None
    ours = in_levels(sample.frames)
    if ours.shape != recorded.frames.shape:
        return _other(
            f"the frames are {list(ours.shape)}, and were {list(recorded.frames.shape)}", "frames", changed
        )
    allowed = round(relative * LEVELS) + 1 if relative else 0
    apart = (ours.to(torch.int16) - recorded.frames.to(torch.int16)).abs().flatten(1).amax(1)
    context.measure(frames_apart=int(apart.max()))
    for frame, levels in enumerate(apart.tolist()):
        if levels > allowed:
            return _other(
                f"all latents on record agree, and from frame {frame} of {len(ours)} on pixels differ by {levels} of "
                f"{LEVELS} levels (limit {allowed})",
                f"frame {frame}",
                changed,
                {"levels": levels, "limit": allowed},
            )
    return None


def _other(
    message: str,
    location: str,
    changed: dict[str, tuple[str | None, str]],
    evidence: dict[str, float] | None = None,
) -> Finding:
    return Finding(
        "GM021",
        f"weights and configuration are the baseline's, and {message}",
        location=location,
        cause=f"since the baseline was made: {_listed(changed)}"
        if changed
        else "the environment is the one on record: look at the program's own code, and at what patches it",
        evidence={**(evidence or {}), "environment": {key: list(pair) for key, pair in changed.items()}},
    )


def _listed(changed: dict[str, tuple[str | None, str]]) -> str:
    return ", ".join(f"{key} was {before}, is {after}" for key, (before, after) in changed.items())
