"""resume_is_exact: a run that stopped and went on is the run that never stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.checkpoints.weight_set import WeightSet
from pytest_genmodel.diagnosis.finding import Finding, name_evidence
from pytest_genmodel.diagnosis.limit import beyond_tolerance
from pytest_genmodel.errors import GenmodelError
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
from pytest_genmodel.training import state_files, trace
from pytest_genmodel.training.command import TrainCommand
from pytest_genmodel.training.observer import Observed
from pytest_genmodel.training.resuming import KEEP_STATE, RESUME, newest_state, step_folders, takes
from pytest_genmodel.training.trainers import trainer_named
from pytest_genmodel.transformations.train import Trained


@invariant(check=check_values)
def resume_is_exact(
    context: Context, *, trainer: Trainer = "full", lr: float = 1e-3, steps: int = 1
) -> Iterator[Finding]:
    """Stop after `steps` steps and go on for as many: every bit is that of one run of twice as many.

    Weights, the optimizer's moments, the schedule, what is drawn and the number of steps are compared where the
    second run begins, then what both runs wrote. Where they differ, the whole run is made again: a trainer that
    does not repeat itself cannot be judged.
    """
    runs = _Runs(context, trainer, lr, steps)
    first = runs.first()
    yield from run_findings(first)
    if first.observed is not None:
        yield from nothing_trained(first.observed)
    if first.checkpoint is None:
        yield from nothing_written(first)
        return
    whole = runs.whole()
    resumed = runs.resumed(first, 2 * steps)
    yield from run_findings(resumed)
    if whole.checkpoint is None or resumed.checkpoint is None:
        yield from nothing_written(resumed if resumed.checkpoint is None else whole)
        return
    counted = list(_steps_taken(first, whole, resumed))
    yield from counted
    found = [] if counted else list(_differences(context, first, whole, resumed))
    if found or _apart(whole, first, until=steps):
        _require_comparable(context, runs, first, whole, steps)
    if not runs.is_slow or context.is_full or any(finding.code == "GM720" for finding in found):
        again = list(_nothing_left(context, runs, first))
        weights_first = bool(found) and found[0].code == "GM720" and found[0].component is not None
        found = [*again, *found] if weights_first else [*found, *again]
    seen = {finding.code for finding in counted}
    for finding in found:
        if finding.code not in seen:  # the first of a kind is the nearest to the cause
            seen.add(finding.code)
            yield finding
    if first.observed is None or whole.observed is None or resumed.observed is None:
        context.cannot_judge(UNWATCHED)


class _Runs:
    """The training runs that the claim needs, of one trainer at one rate."""

    def __init__(self, context: Context, trainer: Trainer, lr: float, steps: int) -> None:
        _, function = trainer_named(trainer)
        self.is_slow = isinstance(function, TrainCommand)
        if isinstance(function, TrainCommand):
            if context.policy.resume_args is None:
                context.skip(
                    "nothing says how a run goes on from an earlier one: give the arguments for it, as "
                    "--genmodel-resume-args='--resume_from_checkpoint {resume}'"
                )
        elif not takes(function, RESUME):
            context.skip(
                "the trainer takes no keyword `resume`: give it one (the path of the state to go on from), or name a "
                "command and --genmodel-resume-args"
            )
        self._keep_state = not isinstance(function, TrainCommand) and takes(function, KEEP_STATE)
        self._context, self._trainer, self._lr, self._steps = context, trainer, lr, steps

    def first(self) -> Trained:
        """The run that stops."""
        return self._run(self._steps)

    def whole(self, *, again: bool = False) -> Trained:
        """The run that does not stop."""
        return self._run(2 * self._steps, again=again)

    def resumed(self, first: Trained, steps: int) -> Trained:
        """The run that goes on from `first`, until `steps` steps are taken in all."""
        return self._run(steps, resume=first.output)

    def _run(self, steps: int, *, resume: Path | None = None, again: bool = False) -> Trained:
        return train_once(
            self._context,
            self._trainer,
            lr=self._lr,
            steps=steps,
            resume=resume,
            keep_state=self._keep_state,
            again=again,
        )


def _steps_taken(first: Trained, whole: Trained, resumed: Trained) -> Iterator[Finding]:
    if first.observed is None or whole.observed is None or resumed.observed is None:
        return
    left, took = whole.observed.steps - first.observed.steps, resumed.observed.steps
    if took == left:
        return
    cause = "the step counter is saved or read one off"
    if took == whole.observed.steps and _begins_alike(resumed.observed, whole.observed):
        cause = (
            "it started from the beginning: no state was found, and nothing was said"
            if first.output is not None and step_folders(first.output)
            else "it started from the beginning: the earlier run left no folder of a step to go on from (have it "
            "save one at its last step)"
        )
    elif took > left + 1:
        cause = "it counts its steps from where it goes on, and not from the beginning"
    yield Finding(
        "GM724",
        f"after {first.observed.steps} of {whole.observed.steps} steps {left} are left, and the run that goes on "
        f"took {took}",
        location=f"step {first.observed.steps + 1}",
        cause=cause,
        evidence={"left": left, "taken": took},
    )


def _begins_alike(one: Observed, other: Observed) -> bool:
    return bool(one.trace and other.trace) and one.trace[0][trace.WEIGHTS] == other.trace[0][trace.WEIGHTS]


def _differences(context: Context, first: Trained, whole: Trained, resumed: Trained) -> Iterator[Finding]:
    """Where the resumed run leaves the whole one: before its first step, in the state it wrote, in its result."""
    found: list[Finding] = []
    denoiser = context.candidate.family.denoiser
    if first.observed and whole.observed and resumed.observed:
        found += _at_the_step(whole.observed, resumed.observed, first.observed.steps, denoiser)
    found += _in_the_state(context, first, whole, resumed, only_counters=bool(found))
    yield from found
    if not found and (apart := differing_weights(resumed, whole)):
        component, names = next(iter(apart.items()))
        yield _other_weights(component, names, resumed, whole, watched=resumed.observed is not None)


def _at_the_step(whole: Observed, resumed: Observed, done: int, denoiser: str) -> Iterator[Finding]:
    """The first step that the two runs begin differently."""
    for number, began in enumerate(resumed.trace, start=done):
        if number >= len(whole.trace):
            return
        expected, location = whole.trace[number], f"step {number + 1}"
        found = []
        if began[trace.WEIGHTS] != expected[trace.WEIGHTS]:
            again = began[trace.WEIGHTS] == whole.trace[0][trace.WEIGHTS]
            found.append(
                Finding(
                    "GM720",
                    f"the weights that {location} begins with are others after resuming",
                    component=denoiser,
                    location=location,
                    cause="they are those that training started from: nothing was restored"
                    if again
                    else None,
                )
            )
        if began[trace.MOMENTS] != expected[trace.MOMENTS]:
            empty = began[trace.MOMENTS] == whole.trace[0][trace.MOMENTS]
            found.append(
                Finding(
                    "GM721",
                    f"the optimizer's moments before {location} are others after resuming",
                    location=location,
                    cause="there are none, as before the first step: its state was not restored"
                    if empty
                    else None,
                )
            )
        elif began[trace.COUNTS] != expected[trace.COUNTS]:
            found.append(
                Finding("GM724", f"the optimizer counts {location} as another step", location=location)
            )
        if resumed.rates[number - done] != whole.rates[number]:
            found.append(
                Finding(
                    "GM722",
                    f"{location} is taken at the rate {_rates(resumed.rates[number - done])} after resuming, and at "
                    f"{_rates(whole.rates[number])} without a stop",
                    location=location,
                    cause="the schedule begins again" if resumed.rates[0] == whole.rates[0] else None,
                )
            )
        if not found and began[trace.GRADIENTS] != expected[trace.GRADIENTS]:
            found.append(_other_draw(began, expected, whole.trace[0], location))
        if found:
            yield from found
            return


def _other_draw(
    began: dict[str, str], expected: dict[str, str], start: dict[str, str], location: str
) -> Finding:
    cause = (
        "the data begins again from its first item, or random numbers that the step draws do: the global generators "
        "are in another state than without a stop"
    )
    if began[trace.RANDOM] == expected[trace.RANDOM]:
        cause = (
            "the global generators were restored: the data begins again from its first item, or a generator of the "
            "loop's own was not restored"
        )
    elif began[trace.RANDOM] == start[trace.RANDOM]:
        cause = "the random generators are where they were at the first step: the noise repeats"
    return Finding(
        "GM723",
        f"weights, moments and rate of {location} are right, and its gradients are others: another clip, timestep or "
        "noise was drawn",
        location=location,
        cause=cause,
    )


def _rates(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates)) or "none"


_LOST_AVERAGE = "the average was not saved, or not restored"
_CODES = {
    state_files.AVERAGE: ("GM720", "of the running average (EMA)"),
    state_files.WEIGHTS: ("GM720", "of the weights"),
    state_files.MOMENTS: ("GM721", "of the optimizer's state"),
    state_files.SCHEDULE: ("GM722", "of the schedule's position"),
    state_files.STEP: ("GM724", "that count steps"),
}


def _in_the_state(
    context: Context, first: Trained, whole: Trained, resumed: Trained, *, only_counters: bool
) -> Iterator[Finding]:
    """The state that both runs wrote after their last step, where the resumed one wrote its own."""
    assert first.output is not None
    assert whole.output is not None
    assert resumed.output is not None
    ours, theirs = newest_state(resumed.output), newest_state(whole.output)
    if ours == resumed.output or theirs == whole.output or (first.output / ours.name).exists():
        return  # nothing is kept apart from the result, or nothing new
    if ours.name != theirs.name:
        yield Finding(
            "GM724",
            f"the last state is {ours.name} after resuming, and {theirs.name} without a stop",
            location=ours.name,
        )
        return
    mine, other = state_files.read_state_files(ours), state_files.read_state_files(theirs)
    apart = mine.differing(other)
    context.measure(state=ours.name, state_values=len(other.values))
    if mine.unread or other.unread:
        context.measure(state_unread=", ".join(sorted({*mine.unread, *other.unread})))
    if names := apart.pop(state_files.RANDOM, None):
        # A loader draws a seed when it begins, so that a faithful run may end in another state.
        context.measure(random_state=f"{names[0].partition(':')[0]} is another at the end")
    counters = (state_files.SCHEDULE, state_files.STEP)
    for kind, (code, what) in _CODES.items():
        if kind in apart and (not only_counters or kind in counters):
            names = apart[kind]
            yield Finding(
                code,
                f"{ours.name}: {_counted(names, 'value')} {what} not as without a stop: {summarise(names)}",
                location=names[0],
                cause=_LOST_AVERAGE if kind == state_files.AVERAGE else None,
                evidence=name_evidence(names),
            )


def _nothing_left(context: Context, runs: _Runs, first: Trained) -> Iterator[Finding]:
    """Go on from the first run with no step left: what is written again is what was written."""
    try:
        again = runs.resumed(first, runs._steps)
    except GenmodelError as error:  # a loop that must take a step is not what is judged here
        context.measure(no_step_left=f"not judged: {error}")
        return
    if again.checkpoint is None or (again.ran is not None and again.ran.status != 0):
        context.measure(no_step_left=f"not judged: {again.problem or 'the trainer failed'}")
        return
    if again.observed is not None and again.observed.steps:
        yield Finding(
            "GM724",
            f"with no step left of {runs._steps}, the run that goes on took {again.observed.steps}",
            location=f"step {runs._steps + 1}",
            cause="the step counter was not restored, or the loop looks at it after the step",
        )
        return
    for component, names in differing_weights(again, first).items():
        yield _other_weights(component, names, again, first, watched=False)
        return
    context.measure(no_step_left="every stored tensor is equal")


def _other_weights(
    component: str, names: list[str], ours: Trained, theirs: Trained, *, watched: bool
) -> Finding:
    from pytest_genmodel.tensors import bitwise, compare

    a, b = (weights_of(trained).get(component) for trained in (ours, theirs))
    looks, apart = None, []
    if a is not None and b is not None:
        both = [name for name in names if name in a.tensors and name in b.tensors]
        apart = [compare(a.read(name), b.read(name), bitwise, in_detail=name == names[0]) for name in both]
        looks = apart[0].likeness if apart and both[0] == names[0] else None
    cause = looks.hint if looks else None
    if watched:
        cause = cause or (
            "every step was the same, so that it lies in what is saved: an average (EMA) that was not restored"
        )
    return Finding(
        "GM720",
        f"{_counted(names, 'tensor')} saved after resuming: other values than without a stop: {summarise(names)}"
        + (f"; {names[0]}: {looks.text}" if looks else ""),
        component=component,
        location=names[0],
        cause=cause,
        evidence={
            **name_evidence(names),
            **(beyond_tolerance(apart) if len(apart) == len(names) else {}),
        },
    )


def differing_weights(ours: Trained, theirs: Trained) -> dict[str, list[str]]:
    """Names of tensors that two runs wrote differently, or that one of them did not write, by component."""
    left, right = weights_of(ours), weights_of(theirs)
    found = {}
    for component in sorted(left.keys() | right.keys()):
        a, b = left.get(component), right.get(component)
        names = (a.tensors.keys() if a else set()) | (b.tensors.keys() if b else set())
        odd = [name for name in sorted(names) if _digest(a, name) != _digest(b, name)]
        if odd:
            found[component] = odd
    return found


def _digest(weights: WeightSet | None, name: str) -> str | None:
    return weights.digest(name) if weights is not None and name in weights.tensors else None


def _require_comparable(context: Context, runs: _Runs, first: Trained, whole: Trained, steps: int) -> None:
    """The control: a whole run made again is the same, and the run that stops is its beginning."""
    control = runs.whole(again=True)
    reason = _apart(control, whole)
    if reason is None and (apart := differing_weights(control, whole)):
        component, names = next(iter(apart.items()))
        reason = f"{_counted(names, 'tensor')} of the {component}: {summarise(names)}"
    if reason is not None:
        context.cannot_judge(
            f"two runs of {2 * steps} steps with one seed differ ({reason}): the trainer does not repeat itself, so "
            "that nothing can be said of resuming"
        )
    if (reason := _apart(whole, first, until=steps)) is not None:
        context.cannot_judge(
            f"the run that stops after step {steps} is not the beginning of that of {2 * steps} steps ({reason}): "
            "give it a schedule that does not depend on the number of steps"
        )


def _apart(ours: Trained, theirs: Trained, *, until: int | None = None) -> str | None:
    """Where two runs that should be alike begin to differ, in words."""
    one, other = ours.observed, theirs.observed
    if one is None or other is None:
        return None
    for step, (a, b) in enumerate(zip(one.trace[:until], other.trace[:until], strict=False), start=1):
        if one.rates[step - 1] != other.rates[step - 1]:
            rates = f"{_rates(one.rates[step - 1])} and {_rates(other.rates[step - 1])}"
            return f"the rates of step {step}: {rates}"
        for kind in (trace.WEIGHTS, trace.MOMENTS, trace.GRADIENTS):
            if a[kind] != b[kind]:
                return f"the {kind} of step {step}"
    return None


def _counted(names: Sequence[str], noun: str) -> str:
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"
