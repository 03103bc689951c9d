"""ema_contracts: the running average follows the weights, as its decay says, and is not taken for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.diagnosis.average import Way, is_same, left_the_start
from pytest_genmodel.diagnosis.finding import Finding, finding_of
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.training_run import (
    UNWATCHED,
    Trainer,
    check_values,
    nothing_trained,
    nothing_written,
    run_findings,
    train_once,
    weights_of,
)
from pytest_genmodel.pipelines.loading import skeleton
from pytest_genmodel.training.averages import Average, averages_of
from pytest_genmodel.transformations.train import Trained

FURTHEST_OFF = 1.0
"""How far off the line from the start to the raw weights an average may be, in units of the way."""
VISIBLE = 2.0
"""Roundings by which a tensor must have moved for the average's share of it to show."""
SMALLEST_SHARE = 1e-3
SLACK_AT_THE_END = 0.02
LEAST_DECAY = 0.005
"""With no schedule known: a decay below this is its complement, as 1 - 0.9999 is."""
SLACK = 0.25
"""Weights need not move evenly: by how much of what lies between the ends the share may be off."""


@invariant(check=check_values)
def ema_contracts(
    context: Context, *, trainer: Trainer = "full", lr: float = 1e-3, steps: int = 2
) -> Iterator[Finding]:
    """Train at rate zero and at a positive rate: the average stays with the start, then follows the weights.

    Each average that the trainer writes beside its raw weights is placed on the way from the start (what the run at
    rate zero wrote) to the raw weights: at the start it was never updated, at the end it is no average, and beyond
    either it is exchanged or of the wrong sign. Where diffusers' settings are saved with it, the share must be
    theirs.
    """
    trained = train_once(context, trainer, lr=lr, steps=steps)
    yield from run_findings(trained)
    if trained.observed is not None:
        yield from nothing_trained(trained.observed)
    if trained.checkpoint is None:
        yield from nothing_written(trained)
        return
    parameters = _parameters(context)
    averages, unmatched = _averages(trained, parameters)
    if not averages and unmatched:
        context.cannot_judge(f"a running average (EMA) cannot be judged: {'; '.join(unmatched)}")
    if not averages:
        context.skip(
            "the trainer wrote no running average (EMA) beside its raw weights: let the command turn it on and save "
            "both (--use_ema)"
        )
    still = train_once(context, trainer, lr=0.0, steps=steps)
    starts = {(one.label, one.component): one for one in _averages(still, parameters)[0]}
    problems: list[str] = list(unmatched)
    for average in averages:
        start = starts.get((average.label, average.component))
        if start is None:
            problems.append(f"{average.label}: the run at rate zero wrote none")
            continue
        if still.observed is not None and still.observed.moved_inside:
            problems.append(f"{average.label}: the run at rate zero moved the weights (see zero_lr_identity)")
            continue
        context.measure(ema=average.label, final=_final(average, trained))
        yield from _at_rate_zero(start, buffers := _buffers(average, parameters))
        yield from _lost(average, start, buffers)
        way = _way(average, start, buffers)
        if not way.moved:
            problems.append(f"{average.label}: no weights moved (see learning_moves)")
        elif reason := _too_coarse(average, way) or _is_still_a_copy(average, way, steps):
            problems.append(reason)
        else:
            context.measure(share=float(f"{way.share:.4g}"), residual=float(f"{way.residual:.2g}"))
            yield from _on_its_way(average, way, steps)
    if problems:
        context.cannot_judge("; ".join(problems))
    if trained.observed is None:
        context.cannot_judge(UNWATCHED)


def _parameters(context: Context) -> list[str]:
    denoiser = context.candidate.checkpoint.components[context.candidate.family.denoiser]
    return [name for name, _ in skeleton(denoiser).named_parameters()]


def _averages(trained: Trained, parameters: list[str]) -> tuple[list[Average], list[str]]:
    return (
        averages_of(trained.output, trained.written, parameters) if trained.output is not None else ([], [])
    )


def _buffers(average: Average, parameters: list[str]) -> set[str]:
    """What the average holds that is no parameter; all that an adapter has are parameters."""
    return {name for name in average.values if name not in parameters and "lora" not in name}


def _at_rate_zero(still: Average, buffers: set[str]) -> Iterator[Finding]:
    names = [n for n in still.values if n in still.raw and n not in buffers and _left(still, n)]
    if names:
        yield finding_of(
            "GM727",
            names,
            "are others in the average than in the model, after steps at rate zero",
            of=len(still.values),
            component=still.component,
            cause="it began from another model, or is rounded to another dtype",
            evidence={"average": still.label},
        )


def _left(still: Average, name: str) -> bool:
    raw, average = still.raw[name](), still.values[name]()
    return raw.shape != average.shape or left_the_start(raw, average)


def _lost(average: Average, start: Average, buffers: set[str]) -> Iterator[Finding]:
    """What the model has and the average lacks, or holds in the values that a new model has."""
    if average.lost:
        yield finding_of(
            "GM728",
            list(average.lost),
            "are not in the average",
            noun="of the model's tensors",
            component=average.component,
            evidence={"average": average.label},
        )
    made_anew = [n for n in sorted(buffers) if n in average.raw and _other_buffer(average, start, n)]
    if made_anew:
        yield finding_of(
            "GM728",
            made_anew,
            "are others in the average, and no parameters",
            component=average.component,
            cause="they were made anew from the configuration when the average was saved",
            evidence={"average": average.label},
        )


def _other_buffer(average: Average, start: Average, name: str) -> bool:
    raw, values = average.raw[name](), average.values[name]()
    if raw.shape != values.shape:
        return True
    if name in start.raw and not bool((start.raw[name]() == raw).all()):
        return False  # it moves: it is averaged, or is not
    return left_the_start(raw, values)


def _way(average: Average, start: Average, skipped: set[str]) -> Way:
    way = Way()
    for name, read in average.values.items():
        if name in average.raw and name in start.raw and name not in skipped:
            raw, first, value = average.raw[name](), start.raw[name](), read()
            if raw.shape == first.shape == value.shape and value.is_floating_point():
                way.add(name, first, raw, value)
    return way


def _too_coarse(average: Average, way: Way) -> str | None:
    """Why an average in fewer digits than the weights may hide how far along it is."""
    says_more = average.schedule is not None and 1 - average.schedule.shares[0] > 2 * way.uncertainty
    if not way.is_coarse or says_more or abs(way.share) > 2 * way.uncertainty:
        return None
    return (
        f"{average.label}: it is stored in fewer digits than the weights, too few to see whether it was updated: "
        "save it as the weights are, or judge more steps or a larger rate"
    )


def _is_still_a_copy(average: Average, way: Way, steps: int) -> str | None:
    """Why an average that is the raw weights may well be: its decay is still 0 by its schedule."""
    if len(way.copied) < len(way.moved):
        return None
    if not average.is_beside:
        return (
            f"{average.label}: the final result is the average, and the raw weights were not saved with it: save "
            "both, as a checkpoint of the last step does"
        )
    schedule = average.schedule
    if (
        schedule is not None
        and schedule.decay > 0
        and not any(map(schedule.at, range(1, schedule.updates + 1)))
    ):
        begins = schedule.update_after_step + 2
        return (
            f"{average.label}: by its own schedule it is a copy of the weights until update {begins}, and was "
            f"updated {schedule.updates} times: give more steps, as steps={begins + 1}"
        )
    if schedule is None and steps < 2:
        return (
            f"{average.label}: many averages are a copy of the weights after one step: give more, as steps=2"
        )
    return None


def _on_its_way(average: Average, way: Way, steps: int) -> Iterator[Finding]:
    """Where the average lies between the start and the raw weights; the plainest fault alone."""
    at: dict[str, Any] = {"component": average.component, "evidence": {"average": average.label}}
    schedule = average.schedule
    wholly_stuck, wholly_copied = (len(names) == len(way.moved) for names in (way.stuck, way.copied))
    stuck = [name for name in way.stuck if way.share * way.visible[name] > VISIBLE]
    copied = [name for name in way.copied if (1 - way.share) * way.visible[name] > VISIBLE]
    if wholly_stuck or stuck:
        cause = None
        if wholly_stuck:
            never = schedule is not None and schedule.updates == 0
            cause = "it says itself that it was updated 0 times" if never else None
        yield finding_of(
            "GM725",
            way.stuck if wholly_stuck else stuck,
            "are what training started from, in the average",
            of=len(way.moved),
            cause=cause,
            **at,
        )
    elif wholly_copied or copied:
        cause = "its decay is 0" if schedule is not None and not schedule.decay else None
        if not wholly_copied:
            cause = "some files of the average are those of the raw weights"
        yield finding_of(
            "GM726",
            way.copied if wholly_copied else copied,
            "are the raw weights, in the average",
            of=len(way.moved),
            cause=cause,
            **at,
        )
    elif way.far or way.strayed:
        yield finding_of(
            "GM727",
            way.far or way.strayed,
            "are far from the way between start and raw weights, in the average",
            of=len(way.moved) if way.far else None,
            cause="it began from another model, or belongs to another run",
            **at,
        )
    else:
        yield from _share(average, way, steps)


def _share(average: Average, way: Way, steps: int) -> Iterator[Finding]:
    share, unsure = way.share, 2 * way.uncertainty + SMALLEST_SHARE
    least, most = 0.0, 1.0 + SLACK_AT_THE_END
    cause = None
    if share > most + unsure:
        cause = "raw weights and average are exchanged: the raw ones lie between the start and the average"
    elif share < -unsure:
        cause = "the update has the wrong sign: it moves away from the weights"
    elif way.residual > FURTHEST_OFF + way.blur:
        cause = "it began from another model, or belongs to another run"
    elif average.schedule is not None:
        *before, last = average.schedule.shares
        between = sum(before[1:])
        least, most = last - SLACK * between, last + (1 + SLACK) * between + SLACK_AT_THE_END
        if share < least - unsure:
            cause = "its step is called before the optimizer's, or decay and its complement are exchanged"
        elif share > most + unsure:
            cause = "it was updated with another decay, or more often, than it says"
    elif steps > 1 and share > 1 - LEAST_DECAY:
        cause = "decay and its complement are exchanged: it follows the weights at once"
    if cause is not None:
        yield Finding(
            "GM727",
            f"the average lies {share:.4g} of the way from the start to the raw weights (off the line by "
            f"{way.residual:.2g} of it); it should lie between {max(least, 0.0):.3g} and {min(most, 1.0):.3g}",
            component=average.component,
            location=average.label,
            cause=cause,
            evidence={"average": average.label, "share": share, "residual": way.residual},
        )


def _final(average: Average, trained: Trained) -> str:
    """Which of the two the final result is."""
    for final in weights_of(trained).values():
        stored = {unwrapped(name).removeprefix("transformer."): name for name in final.tensors}
        names = [name for name in average.values if name in stored and name in average.raw]
        if not names:
            continue
        for what, tensors in (("raw weights", average.raw), ("average", average.values)):
            if all(is_same(tensors[name](), final.read(stored[name])) for name in names):
                return what
        return "neither"
    return "not comparable"
