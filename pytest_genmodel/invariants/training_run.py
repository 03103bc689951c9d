"""A training run as invariants see it: started for a context, and what is to be said of the run itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.weight_set import WeightSet
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.cost import require_small_or_full
from pytest_genmodel.pipelines.equality import compare_stored
from pytest_genmodel.pipelines.library import class_named
from pytest_genmodel.training.complaints import Complaint, complaint_of, own_lines
from pytest_genmodel.training.observer import Observed
from pytest_genmodel.training.resuming import ResumeArguments
from pytest_genmodel.training.trainers import BUILT_IN, require_steps, trainer_named
from pytest_genmodel.transformations.train import Trained, TrainerError, TrainingRun, train

LINES_SHOWN = 8
"""Of what a trainer printed, and of the files it touched."""


Trainer = str | Callable[..., Any]


def check_values(parameters: Mapping[str, Any]) -> None:
    """Refuse an unknown trainer or a count of steps that trains nothing while tests are collected."""
    if "trainer" in parameters:
        trainer_named(parameters["trainer"])
    if "steps" in parameters:
        require_steps(parameters["steps"])


UNWATCHED = (
    "no process of the training run could be watched (none was a Python that imports torch in the environment that "
    "pytest-genmodel is installed in), and the run left no optimizer state (optimizer.bin, "
    "*_optim_states.pt): that the "
    "optimizer took steps, at the rate that was asked for, is not proven"
)


def train_once(
    context: Context,
    trainer: Trainer,
    *,
    lr: float,
    steps: int,
    resume: Path | None = None,
    keep_state: bool = False,
    again: bool = False,
) -> Trained:
    """Train the candidate once at rate `lr`; skips where no trainer can start from it.

    `resume` is the output of an earlier run to go on from, `keep_state` asks a function for a state to go on from,
    `again` for a run of its own, whatever was run before with the same values. A run that several invariants ask for
    is made once in a session; what it left stays on disk until the session ends.
    """
    _require_trainable(context, trainer)
    which = trainer if isinstance(trainer, Hashable) else id(trainer)
    key = ("training run", which, lr, steps, context.probe.seed, resume, keep_state)
    outcome = None if again else context.shared.get(key)
    if outcome is None:
        try:
            outcome = _train(context, trainer, lr, steps, resume, keep_state)
        except TrainerError as error:
            outcome = error
        context.shared[key] = outcome
        if isinstance(outcome, Trained) and outcome.ran is not None:
            context.measure(training_seconds=round(outcome.ran.seconds, 2))
    if isinstance(outcome, TrainerError):
        raise outcome
    context.measure(trainer=outcome.trainer)
    if outcome.ran is not None and outcome.ran.last_lines:
        context.attach(f"output of the trainer at lr {lr:g}", "\n".join(outcome.ran.last_lines))
    return outcome


def _require_trainable(context: Context, trainer: Trainer) -> None:
    if context.candidate.checkpoint.adapter is not None:
        context.skip("the candidate is an adapter: the trainers start from a whole pipeline")
    if trainer in BUILT_IN and (reason := _untrainable(context, trainer)):
        context.skip(reason)
    if trainer in BUILT_IN:
        require_small_or_full(context, "training it")


def _train(
    context: Context, trainer: Trainer, lr: float, steps: int, resume: Path | None, keep_state: bool
) -> Trained:
    pipeline = context.candidate
    backed = ("backed", pipeline.checkpoint.root)
    if backed not in context.shared:  # once: every look loads the whole pipeline
        pipeline.require_backed()
        context.shared[backed] = True
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
        probe.height,
        probe.width,
        probe.frames,
        timeout=context.policy.timeout,
        echo=context.policy.echo,
        resume=resume,
        resume_arguments=ResumeArguments.parse(context.policy.resume_args)
        if context.policy.resume_args
        else None,
        keep_state=keep_state,
        result=context.policy.train_result,
        others=(context.reference.checkpoint.root,) if context.has_reference else (),
        thorough=context.is_full,
        keep=context.policy.keep,
    )
    return train(pipeline, trainer, run)


def _untrainable(context: Context, trainer: Trainer) -> str | None:
    """Why the built-in trainer of this name cannot train the candidate; None where it can."""
    name = str(context.candidate.checkpoint.pipeline_class)
    family = context.candidate.family
    if not family.has_objective:
        unknown = "is of no family that is known here" if not family.is_known else "has no objective here"
        return f"{name} {unknown}: the claims about the built-in trainers are left out"
    if trainer == "lora" and not (
        family.lora_targets and hasattr(class_named("diffusers", name), "save_lora_weights")
    ):
        return f"diffusers gives {name} no LoRA"
    return None


def run_findings(trained: Trained) -> Iterator[Finding]:
    """How the trainer itself behaved: whether it came to its end, and whether it wrote where it must not."""
    if trained.reached:
        yield Finding(
            "GM715",
            f"{len(trained.reached)} files of the original model are others after the run, though the "
            "trainer was given "
            f"a copy: {', '.join(trained.reached[:LINES_SHOWN])}",
            location=trained.reached[0],
            evidence={"files": list(trained.reached)},
        )
    ran = trained.ran
    if ran is not None and ran.status != 0:
        lines = "\n".join(own_lines(ran.last_lines)[-LINES_SHOWN:])
        complaint = complaint_of(ran.last_lines, ran.status, rate=trained.lr)
        if complaint is None and ran.status is None:
            complaint = _too_long(trained.observed)
        yield Finding(
            "GM711",
            f"{ran.how_it_ended}; the last lines it printed:\n{lines}" if lines else ran.how_it_ended,
            location="trainer",
            cause=complaint.cause if complaint else None,
            action=complaint.action if complaint else None,
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


def _too_long(observed: Observed | None) -> Complaint:
    """Why a run may not have ended in its time."""
    waits = observed is not None and observed.world > 1
    return Complaint(
        "its processes wait for each other: one of them alone calls a save, a barrier or a gather that all must call"
        if waits
        else "it hangs, waits for an answer, or needs more time",
        "Run it by hand with the same values; give it more time where it needs that "
        "(--genmodel-train-timeout=SECONDS).",
    )


def nothing_trained(observed: Observed) -> Iterator[Finding]:
    """Say so where no step was taken, or none with gradients: then the run shows nothing."""
    if not observed.steps or not observed.learned:
        what = (
            "no optimizer took a step"
            if not observed.steps
            else "every gradient of every step was zero"
            if not any(observed.with_gradient)
            else "the optimizer's moments are all zero after steps with gradients: it never used them"
        )
        yield Finding("GM709", f"{what}, so that the run shows nothing", location="optimizer")


def steps_findings(context: Context, trained: Trained) -> Iterator[Finding]:
    """Say so where no step was taken, or none with gradients: by the watch, else by what the run's files tell."""
    observed, state = trained.observed, trained.state
    if trained.ran is not None and trained.ran.status != 0 and not (observed is not None and observed.steps):
        return  # it broke off before its first step, which has been said
    if observed is not None and observed.steps:
        context.measure(
            steps=observed.steps, largest_rate=observed.largest_rate, proof="every step was watched"
        )
        yield from nothing_trained(observed)
    elif state is not None and state.files and (observed is None or state.proves_steps):
        rates = [abs(rate) for _, rate in state.rates]
        context.measure(
            steps=state.steps,
            largest_rate=max(rates, default=None),
            proof=f"by files: {', '.join(state.files[:4])}",
        )
        if not state.steps or (state.has_state and not state.has_moments):
            what = "took no step" if not state.steps else "kept moments that are all zero"
            yield Finding(
                "GM709",
                f"by {state.files[0]} the optimizer {what}, so that the run shows nothing",
                location="optimizer",
            )
    elif observed is not None:
        context.measure(steps=0)
        yield from nothing_trained(observed)


def is_witnessed(trained: Trained) -> bool:
    """Whether something shows steps with gradients and their rates: the watch, or files of the optimizer."""
    watched = trained.observed is not None and trained.observed.steps > 0
    return watched or (trained.state is not None and trained.state.proves_steps)


def cannot_witness(context: Context, trained: Trained, control: str = "") -> None:
    """Say that nothing shows what the optimizer did; raises CannotJudgeError."""
    unread = trained.state.unread if trained.state is not None else {}
    refused = "".join(f"; {name} was not read: {why}" for name, why in list(unread.items())[:1])
    context.cannot_judge(f"{UNWATCHED}{control}{refused}")


def nothing_written(trained: Trained) -> Iterator[Finding]:
    """A run that broke off has said why already."""
    if trained.ran is not None and trained.ran.status != 0:
        return
    if trained.choices:
        yield Finding(
            "GM714", str(trained.problem), location="output", evidence={"results": list(trained.choices)}
        )
        return
    complaint = complaint_of(trained.ran.last_lines) if trained.ran is not None else None
    yield Finding(
        "GM710",
        trained.problem or "the trainer wrote no checkpoint",
        location="output",
        cause=complaint.cause if complaint else None,
        action=complaint.action if complaint else None,
    )


def not_its_own(trained: Trained) -> Iterator[Finding]:
    """Say so where what lies in the output was not written by the run."""
    if trained.stale is not None:
        yield Finding("GM710", trained.stale, location="output")


def stored_differences(context: Context, trained: Trained) -> Iterator[tuple[str, WeightDifference]]:
    """What was written against what went in, component by component."""
    assert trained.checkpoint is not None
    for name, before in context.candidate.checkpoint.components.items():
        after = trained.checkpoint.components.get(name)
        if before.has_weights and after is not None and after.has_weights:
            yield name, compare_stored(after, before)


def weights_of(trained: Trained) -> dict[str, WeightSet]:
    """Every set of weights that a run wrote, by component; those of an adapter as `adapter`."""
    written = trained.written
    if written is None:
        return {}
    found = {name: part.weights for name, part in written.components.items() if part.has_weights}
    return found | ({"adapter": written.adapter.weights} if written.adapter is not None else {})


def context_of(context: Context, trained: Trained) -> Context:
    """The same run, with what was trained as the candidate."""
    assert trained.checkpoint is not None
    derived = context.candidate.derive(trained.checkpoint)
    return replace(context, candidate_source=lambda: derived, measurements={})
