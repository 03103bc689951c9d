"""A training run as invariants see it: started for a context, and what is to be said of the run itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.equality import compare_stored
from pytest_genmodel.training.observer import Observed
from pytest_genmodel.training.trainers import BUILT_IN, require_steps, trainer_named
from pytest_genmodel.transformations.train import Trained, TrainingRun, train

LINES_SHOWN = 8
"""Of what a trainer printed, and of the files it touched."""
LARGEST_QUICK = 200_000_000
"""Denoiser parameters up to which the built-in trainers run at the quick level."""


Trainer = str | Callable[..., Any]


def check_values(parameters: Mapping[str, Any]) -> None:
    """Refuse an unknown trainer or a count of steps that trains nothing while tests are collected."""
    if "trainer" in parameters:
        trainer_named(parameters["trainer"])
    if "steps" in parameters:
        require_steps(parameters["steps"])


UNWATCHED = (
    "no process of the training run could be watched (none was a Python that imports torch in the environment that "
    "pytest-genmodel is installed in): that the optimizer took steps, at the rate that was asked for, is not proven"
)


def train_once(context: Context, trainer: Trainer, *, lr: float, steps: int) -> Trained:
    """Train the candidate once at rate `lr`; skips where no trainer can start from it."""
    pipeline = context.candidate
    if pipeline.checkpoint.adapter is not None:
        context.skip("the candidate is an adapter: the trainers start from a whole pipeline")
    denoiser = pipeline.checkpoint.components[pipeline.family.denoiser]
    size = sum(prod(tensor.shape) for tensor in denoiser.weights.tensors.values())
    if trainer in BUILT_IN and size > LARGEST_QUICK and not context.is_full:
        context.skip(
            f"the denoiser has {size / 1e9:.2g}e9 parameters: training it needs --genmodel-level=full"
        )
    pipeline.require_backed()
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
        context.policy.timeout,
        context.policy.echo,
    )
    trained = train(pipeline, trainer, run)
    context.measure(trainer=trained.trainer)
    return trained


def run_findings(trained: Trained) -> Iterator[Finding]:
    """How the trainer itself behaved: whether it came to its end, and whether it wrote where it must not."""
    ran = trained.ran
    if ran is not None and ran.status != 0:
        lines = "\n".join(ran.last_lines[-LINES_SHOWN:])
        yield Finding(
            "GM711",
            f"{ran.how_it_ended}; the last lines it printed:\n{lines}" if lines else ran.how_it_ended,
            location="trainer",
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


def nothing_written(trained: Trained) -> Iterator[Finding]:
    """A run that broke off has said why already."""
    if trained.ran is None or trained.ran.status == 0:
        yield Finding("GM710", trained.problem or "the trainer wrote no checkpoint", location="output")


def stored_differences(context: Context, trained: Trained) -> Iterator[tuple[str, WeightDifference]]:
    """What was written against what went in, component by component."""
    assert trained.checkpoint is not None
    for name, before in context.candidate.checkpoint.components.items():
        after = trained.checkpoint.components.get(name)
        if before.has_weights and after is not None and after.has_weights:
            yield name, compare_stored(after, before)


def context_of(context: Context, trained: Trained) -> Context:
    """The same run, with what was trained as the candidate."""
    assert trained.checkpoint is not None
    derived = context.candidate.derive(trained.checkpoint)
    return replace(context, candidate_source=lambda: derived, measurements={})
