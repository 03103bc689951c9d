"""same_config: what the components really act on is what the reference's act on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_genmodel.diagnosis.configuration import configuration_findings
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.pipeline_class import pipeline_class_findings
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import Level, invariant
from pytest_genmodel.invariants.tokens import shown, token_differences
from pytest_genmodel.pipelines.effective import differences, effective_arguments, effective_config, schedule
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.tokens import TokenFacts

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.baselines.stand_in import Trusted

ELSEWHERE = 1e-5
"""Relative and absolute: cumulated products of float32 agree to 1e-6 between machines, and the smallest change of
configuration that was ever a fault moves an array by 1e-2."""


@invariant(level=Level.STATIC, needs_reference=True, takes_baseline=True)
def same_config(context: Context) -> Iterator[Finding]:
    """Effective values (defaults filled in), the schedule, and what tokenizers do equal the reference's.

    Paths, versions, private fields, keys that the class does not take, and keys that it takes and never uses are
    no difference.
    """
    candidate, trusted = context.candidate, context.trusted
    compared = 1
    yield from pipeline_class_findings(candidate.checkpoint, trusted.checkpoint)
    for name, theirs in trusted.checkpoint.components.items():
        ours = candidate.checkpoint.components.get(name)
        if ours is None:
            continue
        values = effective_config(theirs)
        compared += len(values)
        family = candidate.family
        yield from configuration_findings(ours, theirs, family.inert_config, family.soft_config)
        if "tokenizer" in name.lower() and (tokens := trusted.tokens(name)) is not None:
            compared += 1
            yield from _tokens(candidate, tokens, name)
    acting, recorded = effective_arguments(candidate.checkpoint), trusted.arguments
    stored = candidate.checkpoint.pipeline_arguments
    for key, (ours_, theirs_) in differences(acting, recorded).items():
        if key not in stored and (key not in acting or key not in recorded):
            continue  # an argument that only one version of the library knows
        yield Finding(
            "GM401",
            f"{key} is {ours_!r}, the reference's {theirs_!r}",
            location=f"model_index.json:{key}",
            evidence={"candidate": ours_, "reference": theirs_},
        )
    if "scheduler" in trusted.checkpoint.components and "scheduler" in candidate.components:
        compared += 1
        yield from _schedule(context)
    context.measure(values_compared=compared)


def _tokens(candidate: Pipeline, theirs: TokenFacts, name: str) -> Iterator[Finding]:
    for found in token_differences(candidate.component(name), theirs):
        if found.is_text:
            message = (
                f"{found.what[:60]!r} becomes {shown(found.ours)}, by the reference {shown(found.theirs)}"
            )
        else:
            message = f"{found.what} is {found.ours!r}, the reference's {found.theirs!r}"
        yield Finding(
            "GM403",
            message,
            component=name,
            location=found.location(name),
            evidence={
                "text" if found.is_text else "setting": found.what,
                "candidate": found.ours,
                "reference": found.theirs,
            },
        )


def _schedule(context: Context) -> Iterator[Finding]:
    steps = context.probe.steps
    ours = schedule(context.candidate.component("scheduler"), steps)
    theirs = context.trusted.schedule(steps)
    if theirs is None:
        context.measure(schedule=f"not compared: the baseline holds none of {steps} steps")
        return
    exactly = context.has_reference and _class_of(context.candidate) == _class_of(context.trusted)
    for name in theirs:
        if name in ours and not _equal(ours[name], theirs[name], exactly=exactly):
            place, mine, other = _told(ours[name], theirs[name])
            yield Finding(
                "GM402",
                f"{name}{place} for {steps} steps are {mine}, the reference's {other}",
                component="scheduler",
                location=f"scheduler_config.json:{name}",
            )
            return


def _class_of(side: Pipeline | Trusted) -> str:
    """The scheduler's class; a class of its own rounds in its own way."""
    return side.checkpoint.components["scheduler"].class_name


def _equal(ours: torch.Tensor, theirs: torch.Tensor, *, exactly: bool) -> bool:
    """Whether two arrays are equal; what another library or class computes may differ in the last digits."""
    import torch

    if exactly or ours.shape != theirs.shape:
        return torch.equal(ours, theirs)
    return torch.allclose(ours.double(), theirs.double(), rtol=ELSEWHERE, atol=ELSEWHERE)


def _told(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[str, str, str]:
    """Where two arrays begin to differ, where that is not their start, and a few values of each from there on."""
    start = 0
    if ours.shape == theirs.shape:
        start = int((ours != theirs).nonzero()[0])
    for digits in (5, 9):
        mine, other = (
            _short(array[start : start + 4], digits, len(array) - start) for array in (ours, theirs)
        )
        if mine != other:
            break
    return f"[{start}:]" if start else "", mine, other


def _short(values: torch.Tensor, digits: int, of: int) -> str:
    shown = [f"{float(value):.{digits}g}" for value in values]
    return f"[{', '.join(shown)}{', ...' if of > len(shown) else ''}]"
