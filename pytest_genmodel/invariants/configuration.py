"""same_config: what the components really act on is what the reference's act on."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.checkpoints.component import Component
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
        yield from _differences(candidate, ours, theirs)
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


def _differences(pipeline: Pipeline, ours: Component, theirs: Component) -> Iterator[Finding]:
    family = pipeline.family
    if ours.class_name != theirs.class_name and not theirs.has_weights:
        yield Finding(
            "GM401",
            f"the class is {ours.class_name}, the reference's {theirs.class_name}",
            component=ours.name,
            location=f"model_index.json:{ours.name}",
            evidence={"candidate": ours.class_name, "reference": theirs.class_name},
        )
    file = ours.config_path.name if ours.config_path else "config.json"
    for key, (value, wanted) in differences(effective_config(ours), effective_config(theirs)).items():
        if (ours.class_name, key) in family.inert_config:
            continue
        stored = "" if key in ours.config else ", by default: the file does not name it"
        yield Finding(
            "GM404" if key in family.soft_config else "GM401",
            f"{key} is {value!r}{stored}; the reference's is {wanted!r}",
            component=ours.name,
            location=f"{file}:{key}",
            evidence={"candidate": value, "reference": wanted, "is_default": key not in ours.config},
        )


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
