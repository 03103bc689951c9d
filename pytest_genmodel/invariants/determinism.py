"""reproducible: a sample does not depend on what ran before, beside it, or with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.neutral import STEPS, floor_for, require_floor
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.samples import SampleDifference, compare_samples, sample_difference
from pytest_genmodel.pipelines.calibration import FACTOR, LARGEST, Floor, budget
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.sampling import Sample
from pytest_genmodel.tensors import Tolerance, bitwise, close
from pytest_genmodel.transformations.batch import last_of_two
from pytest_genmodel.transformations.bench import Bench, sampled
from pytest_genmodel.transformations.controls import distance, scales
from pytest_genmodel.transformations.fresh import sample_afresh
from pytest_genmodel.transformations.neutral import NotHereError

OTHER_PROMPT = "a blue circle turns slowly"
HASH_SEEDS = (40_001, 40_002)
AMPLIFIED = 10.0
"""How many budgets another thread count may cost: 3 were measured on the worst-conditioned tiny pipeline."""
_AGAIN, _ALIGNED, _THREADS = "same again", "memory alignment", "thread count"


@invariant
def reproducible(
    context: Context, *, steps: int = STEPS, tolerance: Tolerance | str | None = None
) -> Iterator[Finding]:
    """A sample does not depend on what was sampled before, on the thread count, or on the rest of its batch.

    At the full level it is made once more in a fresh process with another hash seed: the same bits. The control (the
    same sample again) comes first; where the order of additions changes, the measured floor is the limit. `tolerance`
    (default: bitwise, where the device gives the same bits again) is that between samples that must be the same.
    """
    pipeline = context.candidate
    pipeline.require_backed()
    probe = context.probe.but(steps=steps)
    other = probe.but(prompt=OTHER_PROMPT, seed=probe.seed + 11, steps=steps + 1)
    bench = Bench(pipeline, probe)
    try:
        floor = floor_for(context, bench)
        yield from _threads(floor, pipeline.placement.dtype)
        require_floor(context, floor)
        remembered = list(_order(context, bench, other, tolerance or _exact(floor, pipeline.placement.dtype)))
        yield from remembered
        if not remembered:  # a batch would be sampled by a pipeline that is not what it was
            yield from _batch(context, bench, other, floor)
        if context.is_full:
            yield from _fresh(context, bench, other, tolerance)
        else:
            context.measure(fresh_process="not asked for (--genmodel-level=full)")
        context.measure(pipeline_runs=bench.runs)
    finally:
        bench.close()


def _threads(floor: Floor, dtype: str) -> Iterator[Finding]:
    """More threads may change the order of additions, and a sampler may make that larger, as SVD's does."""
    for kind, controls in floor.by_kind.items():
        if _THREADS not in controls:
            return
        usual = max(controls.get(_AGAIN, 0.0), controls.get(_ALIGNED, 0.0))
        if not usual <= LARGEST[dtype]:
            return  # the same again is not the same: the threads are not to blame
        allowed = min(max(FACTOR * usual, AMPLIFIED * budget(dtype)), LARGEST[dtype])
        if not controls[_THREADS] <= allowed:
            yield Finding(
                "GM508",
                f"with another number of threads the {kind} differ by {controls[_THREADS]:.3g} of "
                "their largest value "
                f"(rounding in {dtype}: {allowed:.2g})",
                location=kind,
                evidence={
                    "error": controls[_THREADS],
                    **against(controls[_THREADS], allowed, "of the largest value"),
                },
            )
            return


def _exact(floor: Floor, dtype: str) -> Tolerance:
    """Bitwise, where the same again is the same bits; a device on which it is not is held to its floor."""
    again = max(controls.get(_AGAIN, 0.0) for controls in floor.by_kind.values())
    return bitwise if again == 0 else close(rtol=0.0, atol=max(FACTOR * again, budget(dtype)))


def _order(context: Context, bench: Bench, other: Probe, limit: Tolerance | str) -> Iterator[Finding]:
    """A, then B, then A: twice the same A; and B first of all: the same B."""
    bench.renew()
    first = bench.sample("first of three")
    after_first = bench.sample("second of three", probe=other)
    third = bench.sample("third of three")
    if found := compare_samples(context, "after another sample", "GM506", third, first, limit, ends=True):
        yield _ordered(
            "the sample is another one after a sample with another prompt, seed and number of steps: "
            f"{found.message}",
            found,
            "something is kept from call to call: in the scheduler, in a processor, in a cache",
        )
        return
    bench.renew()
    alone = bench.sample("first of all", probe=other)
    if found := compare_samples(context, "second and first", "GM506", after_first, alone, limit, ends=True):
        yield _ordered(
            f"sampled second, another prompt and seed give another video than sampled first: {found.message}",
            found,
            "the first call is remembered: a cache that is keyed by shape, or filled once",
        )


def _ordered(message: str, found: SampleDifference, cause: str) -> Finding:
    return Finding("GM506", message, location=found.location, cause=cause, evidence=found.evidence)


def _batch(context: Context, bench: Bench, other: Probe, floor: Floor) -> Iterator[Finding]:
    base, dtype = bench.base(sampled), bench.pipeline.placement.dtype
    try:
        seen = last_of_two(bench, other)
    except NotHereError as error:
        context.measure(batch=f"not judged: {error}")
        return
    sizes = scales(base)
    by_place = {look.place: look for look in base}
    worst, unit = 0.0, ""
    found: Finding | None = None
    for look in seen:
        theirs = by_place.get(look.place)
        if theirs is None:
            continue
        allowed = _batch_limit(floor, look.kind, dtype)
        away = distance(look.values, theirs.values, sizes[look.kind]) / allowed
        worst = max(worst, away)
        if not away <= 1 and found is None:
            found = Finding(
                "GM509",
                f"as the second row of a batch the sample is another one, from {look.place} on: {away:.3g} times the "
                f"limit ({allowed:.2g} of the largest value)",
                location=look.place,
                cause="rows are mixed: one generator, one mask or one normalisation for the whole batch",
                evidence={"error_over_limit": away},
            )
            unit = f"times {allowed:.2g} of the largest value"
    context.measure(batch_error_over_limit=worst)
    if found is not None:
        yield replace(found, evidence={**found.evidence, **against(worst, 1.0, unit)})


def _batch_limit(floor: Floor, kind: str, dtype: str) -> float:
    """Two rows are added up in other blocks than one, as under other threads; in 16 bits the floor has seen that."""
    limit = floor.limit(kind, dtype)
    return max(limit, AMPLIFIED * budget(dtype)) if dtype == "float32" else limit


def _fresh(
    context: Context, bench: Bench, other: Probe, tolerance: Tolerance | str | None
) -> Iterator[Finding]:
    import torch

    threads = torch.get_num_threads()

    def run(seed: int) -> Sample:
        return sample_afresh(
            bench.pipeline,
            bench.probe,
            other,
            context.work_folder("fresh"),
            hash_seed=seed,
            threads=threads,
        )

    here, there = bench.sample(), run(HASH_SEEDS[0])
    found = compare_samples(context, "in a fresh process", "GM507", there, here, tolerance)
    if found is None:
        context.measure(fresh_process="the same bits" if tolerance is None else f"within {tolerance}")
        return
    again = sample_difference(run(HASH_SEEDS[1]), there)
    yield Finding(
        "GM507",
        f"in a fresh process the sample is another one: {found.message}",
        location=found.location,
        cause="two fresh processes agree: something of this process is part of the sample (a cache, a global "
        "setting, a patch), or of what was sampled before"
        if again is None
        else "two fresh processes with different hash seeds differ too: the order of a set, or a random state that "
        "is not the generator's",
        evidence=found.evidence,
    )
