"""lr_ladder: from rate zero upwards, drift grows with the rate."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.ladder import STEEPEST, Rung, ladder_findings
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.diagnosis.training_drift import Drift, training_drift
from pytest_genmodel.invariants.configuration import same_config
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.coverage import coverage
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.training_run import (
    Trainer,
    check_values,
    context_of,
    nothing_trained,
    nothing_written,
    run_findings,
    train_once,
)
from pytest_genmodel.pipelines.curves import distance
from pytest_genmodel.training.rates import DEFAULT, check_rates
from pytest_genmodel.transformations.train import Trained

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.placement import Placement
    from pytest_genmodel.pipelines.sampling import Sample

NOISE = {"float64": 2e-7, "float32": 1.1e-5, "float16": 0.05, "bfloat16": 0.2}
"""Relative difference of two samples of one model. For float32 the default tolerance at values around 1 (the
smallest rates of the tiny pipelines give 5e-7), for half precision what rounding does to a clip (up to 0.02, 0.1)."""
NOISE_ELSEWHERE = 1e-4
"""For float32 where it is no CPU: as the default tolerance."""


def _check(parameters: Mapping[str, Any]) -> None:
    check_values(parameters)
    if "rates" in parameters:
        check_rates(parameters["rates"])


@invariant(check=_check)
def lr_ladder(
    context: Context, *, rates: Sequence[float] = DEFAULT, trainer: Trainer = "full", steps: int = 1
) -> Iterator[Finding]:
    """Train at each rate, from zero upwards: weights and sample drift from zero, in proportion to the rate.

    A training run and a sample for each rate; the sample is compared with that of what went in.
    """
    rungs: list[Rung] = []
    wiring: dict[float, str] = {}
    before = context.candidate.sample(context.probe)
    context.candidate.release()
    for rate in check_rates(rates):
        asked = rate or context.policy.zero_rate
        trained = train_once(context, trainer, lr=asked, steps=steps, again=True)
        broken = list(_broken(trained))
        yield from broken
        if trained.checkpoint is None or any(finding.severity is Severity.ERROR for finding in broken):
            return
        rung = _rung(context, trained, rate, steps, before)
        rungs.append(rung)
        context.measure(ladder=[_row(each) for each in rungs])
        if not all(drift.finite for drift in rung.drift.values()):
            yield Finding("GM708", f"at rate {rate:g} weights are NaN or Inf", location=f"rate {rate:g}")
            return
        if _sample_is_far(rung) and (cause := _rewired(context, trained)):
            wiring[rate] = cause
        if trained.output is not None and not context.policy.keep:
            shutil.rmtree(
                trained.output, ignore_errors=True
            )  # a model for each rate is more than most disks hold
    context.measure(coarse=_coarse(rungs))
    if not rungs[-1].drift and (reason := _too_small(context, rungs[-1])):
        context.cannot_judge(reason)
    for finding in ladder_findings(rungs):
        found = next((cause for rate, cause in wiring.items() if finding.location == f"rate {rate:g}"), None)
        yield replace(finding, cause=finding.cause or found) if finding.code == "GM742" else finding


def _broken(trained: Trained) -> Iterator[Finding]:
    yield from run_findings(trained)
    if trained.observed is not None:
        yield from nothing_trained(trained.observed)
    if trained.checkpoint is None:
        yield from nothing_written(trained)


def _rung(context: Context, trained: Trained, rate: float, steps: int, before: Sample) -> Rung:
    assert trained.written is not None
    assert trained.checkpoint is not None
    candidate = context.candidate
    drift = training_drift(candidate.checkpoint, trained.written, trained.checkpoint)
    derived = candidate.derive(trained.checkpoint)
    after = derived.sample(context.probe)
    derived.release()
    return Rung(
        rate,
        steps,
        trained.observed,
        drift,
        _apart(after.latents, before.latents),
        _apart(after.frames, before.frames),
        _noise(candidate.placement),
    )


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The relative difference; infinite where the shapes differ, or values are no numbers."""
    if ours.shape != theirs.shape or not bool(ours.isfinite().all()):
        return float("inf")
    return distance(ours, theirs)


def _noise(placement: Placement) -> float:
    name = str(placement.torch_dtype).removeprefix("torch.")
    if name == "float32" and not placement.device.startswith("cpu"):
        return NOISE_ELSEWHERE
    return NOISE.get(name, NOISE["bfloat16"])


def _sample_is_far(rung: Rung) -> bool:
    """Whether it is worth to look for the reason in the files, while they are here."""
    relative = rung.whole.relative
    return not rung.latents <= rung.noise + (STEEPEST * relative if relative is not None else 0.0)


def _rewired(context: Context, trained: Trained) -> str | None:
    """What in the written files is wired otherwise than in what went in; None where nothing is."""
    after = context_of(context, trained)
    for finding in (
        *coverage(after),
        *same_config(replace(after, reference_source=context.candidate_source)),
    ):
        if finding.severity is Severity.ERROR:
            return f"{finding.code} at {finding.location}: {finding.message}"
    return None


def _row(rung: Rung) -> dict[str, Any]:
    return {
        "rate": rung.rate,
        "used_rate": rung.used,
        **_figures(rung.whole),
        "components": {name: _figures(drift) for name, drift in rung.drift.items()},
        "latents": rung.latents,
        "frames": rung.frames,
    }


def _figures(drift: Drift) -> dict[str, Any]:
    return {"step": drift.step, "weights": drift.relative, "moved": drift.moved, "values": drift.values}


def _coarse(rungs: Sequence[Rung]) -> dict[str, float]:
    """The rates at which the dtype, not the rate, decided how many values moved: rate -> share of those that did."""
    most = rungs[-1].whole.moved
    shares = {f"{rung.rate:g}": rung.whole.moved / most for rung in rungs[1:] if most}
    return {rate: round(share, 4) for rate, share in shares.items() if share < 0.9}


def _too_small(context: Context, top: Rung) -> str | None:
    """Why the highest rate could not move anything: its steps are shorter than half the way to a neighbour."""
    import torch

    from pytest_genmodel.checkpoints.statistics import statistics
    from pytest_genmodel.checkpoints.weight_set import torch_dtype

    weights = context.candidate.checkpoint.components[context.candidate.family.denoiser].weights
    name = max(weights.tensors, key=lambda tensor: weights.tensors[tensor].shape)
    dtype = torch_dtype(weights.tensors[name].dtype)
    if not dtype.is_floating_point or top.used is None or not top.used:
        return None
    half = torch.finfo(dtype).eps * statistics(weights, [name])[name].std / 2
    if top.path >= half:
        return None
    return (
        f"no rate moves anything: the weights are {str(dtype).removeprefix('torch.')}, in which neighbours are about "
        f"{2 * half:.1g} apart, and the highest rate is {top.rate:g}: give higher rates"
    )
