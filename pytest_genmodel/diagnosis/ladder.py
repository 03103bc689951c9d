"""A ladder of learning rates judged: the drift of weights and sample begins at zero and grows with the rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.diagnosis.training_drift import Drift, together
from pytest_genmodel.training.habits import counts_as_zero, habit_of
from pytest_genmodel.training.observer import Observed

FAR = 10.0
"""How many times further than in proportion is a jump. What is healthy stays below 6.4: Adam's step is at most
(1 - beta1) / sqrt(1 - beta2) rates long (Kingma and Ba, 2015, section 2.1), 3.2 with its usual betas, and rounding to
the nearest neighbour at most doubles it, as a step shorter than half the spacing is not taken at all."""
STEEPEST = 1000.0
"""How many times further than the weights, relatively, the sample may move. Measured on the tiny pipelines: 1.4 with
random weights, 40 with trained ones; a larger model may be steeper, and what is wired otherwise differs by 0.1 and
more at rates that move the weights by 1e-7."""
COARSE = 1e-4
"""Relative distances of neighbours above this are those of 16 bits and less (float16: 9.8e-4, float32: 1.2e-7)."""
STALLED = 0.5
"""A higher rate that moves less than this share of what the lower one moves."""
ADAM_LIKE = frozenset(
    {
        "torch.optim.adam.Adam",
        "torch.optim.adamw.AdamW",
        "torch.optim.adamax.Adamax",
        "torch.optim.nadam.NAdam",
        "torch.optim.radam.RAdam",
        "lion_pytorch.lion_pytorch.Lion",
        *(f"bitsandbytes.optim.adamw.{name}" for name in ("AdamW", "AdamW8bit", "PagedAdamW8bit")),
        *(f"bitsandbytes.optim.adam.{name}" for name in ("Adam", "Adam8bit", "PagedAdam8bit")),
    }
)
"""Optimizers that move a value by about the rate in a step, whatever its gradient is."""


@dataclass(frozen=True)
class Rung:
    """What a run at one rate came to.

    `drift` holds the components that moved; `latents` and `frames` are relative differences of the sample from that
    of what went in, `noise` what two runs of the same model may differ by.
    """

    rate: float
    steps: int
    observed: Observed | None
    drift: Mapping[str, Drift]
    latents: float
    frames: float
    noise: float

    @property
    def used(self) -> float | None:
        """The largest rate that the optimizer used; None where no step was seen."""
        return self.observed.largest_rate if self.observed is not None and self.observed.steps else None

    @property
    def path(self) -> float:
        """The rates of all steps together, as far as they were seen."""
        if self.observed is None or not self.observed.steps:
            return self.rate * self.steps
        return sum(max(map(abs, rates), default=self.rate) for rates in self.observed.rates)

    def of(self, component: str) -> Drift:
        """How far a component moved."""
        return self.drift.get(component) or together([])

    @property
    def whole(self) -> Drift:
        """How far all components moved together."""
        return together(self.drift.values())


def ladder_findings(rungs: Sequence[Rung]) -> Iterator[Finding]:
    """Judge a ladder from zero upwards: one finding for each component that does not follow, then the sample."""
    zero, *above = rungs
    away = list(_away_at_zero(zero))
    yield from away
    if not above[-1].drift:
        yield _never_moved(above[-1])
        return
    told = {finding.component for finding in away}
    jumped: dict[float, bool] = {}
    for component in dict.fromkeys(name for rung in above for name in rung.drift):
        if component in told:
            jumped.update(dict.fromkeys((rung.rate for rung in above), True))
            continue
        for low, high, finding in _weights(component, zero, above):
            jumped[low.rate] = jumped[high.rate] = True
            yield finding
            break
    if not away:
        yield from _sample([rung for rung in above if not jumped.get(rung.rate)], above)


def _away_at_zero(zero: Rung) -> Iterator[Finding]:
    for component, drift in zero.drift.items():
        yield Finding(
            "GM740",
            f"at rate {zero.rate:g} {drift.moved} of {drift.values} values of the {component} are others than before "
            f"({_far(drift)})",
            component=component,
            location=_place(zero),
            cause=_used_another(zero) or _habit(zero) or _written_as(drift),
            evidence={"rate": zero.rate, "step": drift.step, "used_rate": zero.used},
        )
    if not zero.drift:
        for what, distance in (("latents", zero.latents), ("frames", zero.frames)):
            if not distance <= zero.noise:
                yield Finding(
                    "GM740",
                    f"at rate {zero.rate:g} no weight moved, and the {what} of the sample {_differ(distance)} (two "
                    f"runs of one model may by {zero.noise:.1g})",
                    location=_place(zero),
                    cause="what is loaded, or how it is run, is another: zero_lr_identity says which",
                    evidence={
                        "rate": zero.rate,
                        what: distance,
                        **against(distance, zero.noise, "relative difference"),
                    },
                )
                return


def _never_moved(top: Rung) -> Finding:
    cause = None
    if top.used is not None and counts_as_zero(top.used):
        cause = "the rate that the optimizer used was 0 in every step: a schedule that starts there (warm-up)"
    return Finding(
        "GM744",
        f"at rate {top.rate:g}, the highest, every value is what it was, so that the ladder shows nothing",
        location=_place(top),
        cause=cause,
        evidence={"rate": top.rate, "used_rate": top.used},
    )


def _weights(component: str, zero: Rung, above: Sequence[Rung]) -> Iterator[tuple[Rung, Rung, Finding]]:
    """What a component does between neighbouring rates, from the lowest upwards."""
    below = zero
    for low, high in pairwise(above):
        ours, theirs = low.of(component), high.of(component)
        apart = _too_far(low, high, component) or (ours.moved > 0 and _rates_part(low, high))
        if theirs.distance < STALLED * ours.distance or (apart and _capped(low, high)):
            yield low, high, _stalls(component, low, high)
        elif apart or _beyond_its_rate(low, component):
            yield below, low, _jump(component, below, low, high)
        below = low
    if _beyond_its_rate(above[-1], component):
        yield below, above[-1], _jump(component, below, above[-1], None)


def _too_far(low: Rung, high: Rung, component: str) -> bool:
    """Whether the lower rate moves the component further than its share of what the higher one does."""
    drift = low.of(component)
    share = high.of(component).distance * low.rate / high.rate
    return not drift.distance <= FAR * (share + _rounding(drift, low.rate * low.steps))


def _rates_part(low: Rung, high: Rung) -> bool:
    """Whether the optimizer was seen to use much more of the lower rate than of the higher: a bound on one of them.

    Where steps are rounded away, the weights do not show it.
    """
    return bool(low.used and high.used) and low.used * high.rate > FAR * high.used * low.rate  # type: ignore[operator]


def _beyond_its_rate(rung: Rung, component: str) -> bool:
    """Whether values moved further than Adam's steps are long; False for optimizers of which that is not known."""
    if (
        rung.observed is None
        or not set(rung.observed.optimizers)
        or not set(rung.observed.optimizers) <= ADAM_LIKE
    ):
        return False
    drift, path = rung.of(component), rung.path
    decay = max(float(options.get("weight_decay", 0.0)) for options in rung.observed.options.values())
    steps = FAR * (path * math.sqrt(drift.values) + _rounding(drift, path))
    return not drift.distance <= steps + path * decay * drift.norm


def _rounding(drift: Drift, path: float) -> float:
    """How far rounding by chance carries values: each goes a whole spacing with a probability of step by spacing.

    Nobody rounds so but to 16 bits, and rounding to the nearest stays below twice the step: 0 for wider dtypes.
    """
    if drift.spacing < COARSE:
        return 0.0
    return math.sqrt(path * drift.spacing * math.sqrt(drift.values) * drift.norm)


def _capped(low: Rung, high: Rung) -> bool:
    """Whether the higher rate is the one that is off: at the lower one the optimizer used what was asked for."""
    return (
        low.used is not None
        and high.used is not None
        and low.used <= 1.5 * low.rate
        and high.used * FAR <= high.rate
    )


def _jump(component: str, below: Rung, at: Rung, above: Rung | None) -> Finding:
    drift = at.of(component)
    share = ""
    if above is not None:
        due = above.of(component).step * at.rate / above.rate
        share = f"; its share of what rate {above.rate:g} moves is {due:.2g}"
    return Finding(
        "GM741",
        f"between the rates {below.rate:g} and {at.rate:g} the {component} jumps: {_far(below.of(component))} and "
        f"{_far(drift)}{share}",
        component=component,
        location=_place(at),
        cause=_used_another(at) or _habit(at) or _written_as(drift) or _beside(at),
        evidence={
            "rates": [below.rate, at.rate],
            "step": drift.step,
            "used_rate": at.used,
            "relative": drift.relative,
        },
    )


def _stalls(component: str, low: Rung, high: Rung) -> Finding:
    ours, theirs = low.of(component), high.of(component)
    cause = "the trainer bounds the rate, or a schedule shortens it"
    if high.used is not None:
        cause = f"the optimizer used {high.used:g} where {high.rate:g} was asked for: {cause}"
    return Finding(
        "GM743",
        f"raising the rate from {low.rate:g} to {high.rate:g} moves the {component} no further: {_far(ours)} and "
        f"{_far(theirs)}",
        component=component,
        location=_place(high),
        cause=cause if high.used is None or high.used < 0.5 * high.rate else None,
        evidence={"rates": [low.rate, high.rate], "steps": [ours.step, theirs.step], "used_rate": high.used},
    )


def _sample(judged: Sequence[Rung], above: Sequence[Rung]) -> Iterator[Finding]:
    """The lowest rate at which the weights moved as they should, and the sample did not."""
    for rung in judged:
        later = next((other for other in above if other.rate > rung.rate), None)
        for what in ("latents", "frames"):
            distance = getattr(rung, what)
            share = getattr(later, what) * rung.rate / later.rate if later is not None else math.inf
            steepest = STEEPEST * rung.whole.relative if rung.whole.relative is not None else None
            known = [limit for limit in (FAR * share, steepest) if limit is not None and math.isfinite(limit)]
            if known and not distance <= max(known) + rung.noise:
                yield Finding(
                    "GM742",
                    f"at rate {rung.rate:g} the weights moved by {_far(rung.whole)} and the {what} of the sample "
                    f"{_differ(distance)}: no movement of this size does that",
                    location=_place(rung),
                    evidence={
                        "rate": rung.rate,
                        what: distance,
                        "weights": rung.whole.relative,
                        **against(distance, max(known) + rung.noise, "relative difference"),
                    },
                )
                return


def _place(rung: Rung) -> str:
    return f"rate {rung.rate:g}"


def _far(drift: Drift) -> str:
    return f"{drift.step:.2g} a value" if drift.moved else "nothing"


def _differ(distance: float) -> str:
    if math.isinf(distance):
        return "are NaN or Inf, or of another shape"
    return f"differ by {distance:.3g}, relatively"


def _used_another(rung: Rung) -> str | None:
    used = rung.used
    if used is None or used <= 1.5 * rung.rate or (counts_as_zero(used) and counts_as_zero(rung.rate)):
        return None
    return (
        f"the optimizer used the rate {used:g} where {rung.rate:g} was asked for: a smallest rate, a default that "
        "stands in for a small value, or another configuration's"
    )


def _habit(rung: Rung) -> str | None:
    return habit_of(rung.observed) if rung.observed is not None and rung.observed.moved_inside else None


def _written_as(drift: Drift) -> str | None:
    return (
        f"the file holds {drift.written_as}, which is coarser than what was given"
        if drift.written_as
        else None
    )


def _beside(rung: Rung) -> str | None:
    observed = rung.observed
    if observed is None or not observed.steps:
        return None
    if observed.moved_outside:
        return f"{observed.moved_outside} parameters changed in memory while no optimizer was stepping"
    if set(observed.optimizers) <= ADAM_LIKE:
        return (
            f"a step of {observed.optimizers[0].rpartition('.')[2]} moves a value by about the rate: what was "
            "written is not what was trained"
        )
    return None
