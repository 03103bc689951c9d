"""same_config: what the components really act on is what the reference's act on."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.diagnosis.configuration import configuration_findings
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import Level, invariant
from pytest_genmodel.invariants.tokens import shown, token_differences
from pytest_genmodel.pipelines.effective import differences, effective_arguments, effective_config, schedule
from pytest_genmodel.pipelines.pipeline import Pipeline


@invariant(level=Level.STATIC, needs_reference=True)
def same_config(context: Context) -> Iterator[Finding]:
    """Effective values (defaults filled in), the schedule, and what tokenizers do equal the reference's.

    Paths, versions, private fields, keys that the class does not take, and keys that it takes and never uses are
    no difference.
    """
    candidate, reference = context.candidate, context.reference
    compared = 0
    for name, theirs in reference.checkpoint.components.items():
        ours = candidate.checkpoint.components.get(name)
        if ours is None:
            continue
        values = effective_config(theirs)
        compared += len(values)
        family = candidate.family
        yield from configuration_findings(ours, theirs, family.inert_config, family.soft_config)
        if "tokenizer" in name.lower():
            compared += 1
            yield from _tokens(candidate, reference, name)
    for key, (ours_, theirs_) in differences(
        effective_arguments(candidate.checkpoint), effective_arguments(reference.checkpoint)
    ).items():
        yield Finding(
            "GM401",
            f"{key} is {ours_!r}, the reference's {theirs_!r}",
            location=f"model_index.json:{key}",
            evidence={"candidate": ours_, "reference": theirs_},
        )
    if "scheduler" in reference.components and "scheduler" in candidate.components:
        compared += 1
        yield from _schedule(context)
    context.measure(values_compared=compared)


def _tokens(candidate: Pipeline, reference: Pipeline, name: str) -> Iterator[Finding]:
    ours, theirs = (pipeline.component(name) for pipeline in (candidate, reference))
    for found in token_differences(ours, theirs):
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
    import torch

    steps = context.probe.steps
    ours = schedule(context.candidate.component("scheduler"), steps)
    theirs = schedule(context.reference.component("scheduler"), steps)
    for name in theirs:
        if name in ours and not torch.equal(ours[name], theirs[name]):
            yield Finding(
                "GM402",
                f"{name} for {steps} steps are {_short(ours[name])}, the reference's {_short(theirs[name])}",
                component="scheduler",
                location=f"scheduler_config.json:{name}",
            )
            return


def _short(array: object) -> str:
    values = [f"{float(value):.5g}" for value in array[:4]]  # type: ignore[index]
    return f"[{', '.join(values)}, ...]"
