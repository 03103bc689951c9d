"""neutral_transformations: what is done to a live pipeline every day, and must not matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.pipelines.calibration import CalibrationFile, Floor, budget
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.transformations.bench import Bench, Look, Observation, sampled
from pytest_genmodel.transformations.controls import distance, measure_floor, scales
from pytest_genmodel.transformations.left_behind import PipelineState, pipeline_state
from pytest_genmodel.transformations.neutral import (
    BrokenError,
    Done,
    Neutral,
    NotHereError,
    all_neutral,
    neutral_named,
)
from pytest_genmodel.transformations.neutral_dtypes import move_to_bfloat16, round_weights

STEPS = 2
BFLOAT16 = "bfloat16"
"""The transformation that is held to its own rounding: another dtype for the sums, the same weights."""


def _check(parameters: Mapping[str, Any]) -> None:
    names = parameters.get("transformations")
    if names is None:
        return
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise BadInputError(f"transformations={names!r}: a tuple of names is wanted")
    for name in names:
        if name != BFLOAT16:
            neutral_named(name)


@invariant(check=_check)
def neutral_transformations(
    context: Context, *, transformations: tuple[str, ...] | None = None, steps: int = STEPS
) -> Iterator[Finding]:
    """Slices, tiles, other kernels, dtypes and back, copies: applied to a pipeline of its own, none may matter.

    The limit is measured: the same sample again, with tensors at other addresses, with other threads. What is
    applied is undone, and the pipeline must then be what it was. `transformations` names those to try; else
    offloading, layerwise casting and diffusers' own attention backends wait for the level `full`.
    """
    pipeline = context.candidate
    pipeline.require_backed()
    left_out = {} if transformations is not None else _left_out(context)
    known = (*all_neutral(), BFLOAT16) if transformations is None else tuple(transformations)
    names = tuple(name for name in known if name not in left_out)
    probe = context.probe.but(steps=steps)
    bench = Bench(pipeline, probe)
    try:
        floor = floor_for(context, bench)
        require_floor(context, floor)
        trial = _Trial(context, bench, floor)
        trial.skipped |= left_out
        yield from trial.run(names)
    finally:
        bench.close()


def _left_out(context: Context) -> dict[str, str]:
    """What is not done unless it is asked for, with when it is."""
    done = {Done.ALWAYS}
    if context.is_full or context.candidate.placement.device != "cpu":
        done.add(Done.MOVED)
    if context.is_full:
        done.add(Done.FULL)
    return {
        name: f"done {change.done.value}" for name, change in all_neutral().items() if change.done not in done
    }


def floor_for(context: Context, bench: Bench) -> Floor:
    """The floor from the calibration file, else measured.

    With a reference and a file, the reference is measured: the candidate is what is judged.
    """
    dtype = bench.pipeline.placement.dtype
    file = CalibrationFile(Path(context.policy.calibrate)) if context.policy.calibrate else None
    key = _key(bench.pipeline, bench.probe)
    floor = file.read(key, bench.pipeline.placement) if file else None
    if floor is None:
        floor = _measured(context, bench) if file else measure_floor(bench)
        if file and floor.problem(dtype) is None:
            file.add(key, floor, bench.pipeline.placement)
    context.measure(floor=floor.to_json(), budget=budget(dtype))
    return floor


def require_floor(context: Context, floor: Floor) -> None:
    """Make the verdict inconclusive where a control failed."""
    if problem := floor.problem(context.candidate.placement.dtype):
        context.cannot_judge(problem)


def _measured(context: Context, bench: Bench) -> Floor:
    if not context.has_reference or context.reference.digest == bench.shared.digest:
        return measure_floor(bench)
    trusted = Bench(context.reference, bench.probe)
    try:
        return measure_floor(trusted)
    finally:
        bench.runs += trusted.runs
        trusted.close()


def _key(pipeline: Pipeline, probe: Probe) -> str:
    return (
        f"{pipeline.checkpoint.pipeline_class}, {probe.width}x{probe.height}, {probe.frames} frames, "
        f"{probe.steps} steps, guidance {probe.guidance:g}"
    )


class _Trial:
    """One bench with its floor: each transformation in turn, from the same state."""

    def __init__(self, context: Context, bench: Bench, floor: Floor) -> None:
        self.context = context
        self.bench = bench
        self.floor = floor
        self.errors: dict[str, float] = {}
        self.skipped: dict[str, str] = {}
        self.state: PipelineState | None = None
        """The bench as it is now, where that is known already."""
        self.marks: frozenset[str] | None = None
        """Places where any run leaves its mark, where something was found and that was asked."""

    @property
    def dtype(self) -> str:
        return self.bench.pipeline.placement.dtype

    def run(self, names: tuple[str, ...]) -> Iterator[Finding]:
        self.bench.base(sampled)
        for name in names:
            if name != BFLOAT16:
                yield from self._one(neutral_named(name))
        yield from self._again()
        if BFLOAT16 in names:
            yield from self._half()  # last: it does not undo what it does
        self.context.measure(
            pipeline_runs=self.bench.runs,
            errors_over_limit=self.errors,
            left_out=self.skipped,
            notes=self.bench.notes,
        )
        if not self.errors:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
            self.context.skip(f"none of the transformations applies ({reasons})")

    def _one(self, change: Neutral) -> Iterator[Finding]:
        bench, found = self.bench, []
        before = self.state or pipeline_state(bench)
        self.state = None
        try:
            with change.apply(bench) as live:
                self.errors[change.name] = 0.0
                if live is not None:
                    base = bench.base(change.observe)
                    seen = change.observe(bench, f"neutral: {change.name}", live)
                    found = list(self._compared(change.name, change.code, change.cause, seen, base))
        except NotHereError as error:
            self.skipped[change.name] = str(error)
        except BrokenError as error:
            self.errors[change.name] = float("inf")
            yield Finding(
                error.code,
                f"{change.name}: {error}",
                component=error.component,
                location=error.location,
                cause=change.cause,
            )
            bench.renew()
            return
        yield from found
        after = pipeline_state(bench)
        left = {
            place: what
            for place, what in after.differences(before).items()
            if not any(part in place for part in change.leaves)
        }
        is_new = bool(left) and self.marks is None
        if is_new:
            self.marks = self._marks_of_a_run()
        left = {place: what for place, what in left.items() if place not in (self.marks or ())}
        if left:
            place, what = next(iter(left.items()))
            yield Finding(
                "GM617",
                f"{change.name}, undone, leaves {len(left)} things behind: {place}: {what}",
                component=place.partition(".")[0].partition(":")[0],
                location=place,
                evidence={"count": len(left), "places": list(left)[:50]},
            )
            bench.renew()
        elif not is_new:
            self.state = after

    def _marks_of_a_run(self) -> frozenset[str]:
        """Where a plain run of a new pipeline leaves its mark: counters and hooks are made at the first one."""
        self.bench.renew()
        before = pipeline_state(self.bench)
        sampled(self.bench, f"a first run ({uuid4().hex})", self.bench.live)
        return frozenset(pipeline_state(self.bench).differences(before))

    def _half(self) -> Iterator[Finding]:
        """In bfloat16 against float32 with weights that bfloat16 holds: the same model, computed otherwise."""
        bench = self.bench
        if self.dtype != "float32":
            self.skipped[BFLOAT16] = f"the run is in {self.dtype} itself"
            return
        try:
            round_weights(bench)
            wide = sampled(bench, "weights rounded to bfloat16", bench.live)
            move_to_bfloat16(bench)
            narrow = sampled(bench, "in bfloat16", bench.live)
        except BrokenError as error:
            self.errors[BFLOAT16] = float("inf")
            yield Finding(
                error.code, f"{BFLOAT16}: {error}", component=error.component, location=error.location
            )
            return
        except RuntimeError as error:
            self.skipped[BFLOAT16] = f"the pipeline does not run in bfloat16 ({str(error).splitlines()[0]})"
            return
        yield from self._compared(
            BFLOAT16,
            "GM615",
            "something that must stay in float32 is computed in 16 bits: time steps, rotary tables, norms",
            tuple(look for look in narrow if look.kind == "latents"),
            tuple(look for look in wide if look.kind == "latents"),
            budget("bfloat16"),
        )

    def _again(self) -> Iterator[Finding]:
        """At the end the pipeline gives what it gave at the beginning."""
        if self.bench.is_large:
            return
        seen = sampled(self.bench, f"after {', '.join(self.errors)}", self.bench.live)
        yield from self._compared(
            "all of it undone",
            "GM617",
            "something is left behind that no attribute tells: in the scheduler, or outside the pipeline",
            seen,
            self.bench.base(sampled),
        )

    def _compared(
        self,
        name: str,
        code: str,
        cause: str,
        seen: Observation,
        base: Observation,
        limit: float | None = None,
    ) -> Iterator[Finding]:
        """The first place that is farther off than the limit; what was measured is kept in any case."""
        sizes = scales(base)
        ratios = []
        for ours, theirs in zip(seen, base, strict=False):
            allowed = limit if limit is not None else self.floor.limit(theirs.kind, self.dtype)
            away = distance(ours.values, theirs.values, sizes[theirs.kind])
            ratios.append((away / allowed, ours, theirs, allowed))
        self.errors[name] = max((ratio for ratio, *_ in ratios), default=0.0)
        first = next(((o, t, a) for ratio, o, t, a in ratios if not ratio <= 1), None)
        if first is not None:
            yield _finding(name, code, cause, *first, scale=sizes[first[1].kind], worst=self.errors[name])


def _finding(
    name: str, code: str, cause: str, ours: Look, theirs: Look, allowed: float, *, scale: float, worst: float
) -> Finding:
    from pytest_genmodel.tensors import close, compare

    comparison = compare(ours.values, theirs.values, close(atol=allowed * scale))
    looks = f"; it looks like {comparison.likeness.text}" if comparison.likeness else ""
    return Finding(
        code,
        f"{name} changes the {theirs.kind}, from {theirs.place} on: max |a-b| {comparison.max_abs:.3g}, "
        f"{worst:.3g} times the limit ({allowed:.2g} of the largest value){looks}",
        location=theirs.place,
        cause=cause,
        evidence={
            "transformation": name,
            "error_over_limit": worst,
            **against(worst, 1.0, f"times {allowed:.2g} of the largest value"),
        },
    )
