"""save_load_round_trip: what is saved comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.diagnosis.finding import Finding, name_evidence
from pytest_genmodel.diagnosis.limit import beyond_tolerance
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.divergence import after_difference
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.samples import compare_samples
from pytest_genmodel.invariants.tokens import shown, token_differences
from pytest_genmodel.pipelines.effective import differences, runtime_config, schedule
from pytest_genmodel.pipelines.equality import TensorDifference, tensor_differences
from pytest_genmodel.pipelines.loading import load_component
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.tracing import Side
from pytest_genmodel.pipelines.unsaved import Unsaved, unsaved_settings
from pytest_genmodel.transformations.reload import save_and_reload

if TYPE_CHECKING:
    from pytest_genmodel.tensors import Comparison, Tolerance


@invariant
def save_load_round_trip(context: Context, *, tolerance: Tolerance | str | None = None) -> Iterator[Finding]:
    """Save, load again: weights and buffers by the bit, configuration, schedule, token ids, latents and frames.

    Where all of the former are equal the sample is proven equal and is not computed, unless the level is full.
    `tolerance` (default: bitwise) is the limit between the samples; what is stored is held to the bit.
    """
    pipeline = context.candidate
    if pipeline.checkpoint.adapter is not None:
        context.skip("the candidate is an adapter; coverage compares its factors with the file")
    pipeline.require_backed()
    reloaded = save_and_reload(pipeline, context.work_folder("reload") / "pipeline")
    found = False
    for name in pipeline.components:
        for finding in _component(pipeline, reloaded.checkpoint, name, context.probe.steps):
            found = found or finding.severity is not Severity.NOTE
            yield finding
    context.measure(components_compared=len(pipeline.components))
    if found:
        return
    if not context.is_full:
        context.measure(
            sample="proven equal: weights, buffers, configuration, schedule and token ids are equal"
        )
        return
    before = pipeline.sample(context.probe)
    pipeline.release()
    after = reloaded.sample(context.probe, transformation="save and reload")
    difference = compare_samples(context, "saved and loaded again", "GM604", after, before, tolerance)
    if difference is not None:
        finding = difference.finding("GM604")
        yield finding
        sides = Side(reloaded), Side(pipeline)
        yield from after_difference(context, *sides, context.probe, (after, before), [finding])


def _component(pipeline: Pipeline, saved: Checkpoint, name: str, steps: int) -> Iterator[Finding]:
    live = pipeline.component(name)
    reloaded = load_component(saved.components[name], pipeline.placement).module
    if pipeline.checkpoint.components[name].has_weights:
        changed = tensor_differences(live, reloaded)
        if changed:
            yield _weights(name, changed)
    for key, (after, before) in differences(runtime_config(reloaded), runtime_config(live)).items():
        yield Finding(
            "GM602",
            f"{key} was {before!r} and comes back as {after!r}",
            component=name,
            location=f"{name}:{key}",
            evidence={"saved": before, "reloaded": after},
        )
    for setting in unsaved_settings(live, reloaded, steps):
        yield _unsaved(name, setting)
    if name == "scheduler":
        yield from _schedule(live, reloaded, steps)
    if "tokenizer" in name.lower():
        for found in token_differences(reloaded, live):
            before, after = (
                (shown(found.theirs), shown(found.ours))
                if found.is_text
                else (repr(found.theirs), repr(found.ours))
            )
            what = repr(found.what[:60]) if found.is_text else found.what
            yield Finding(
                "GM603",
                f"{what} was {before} and comes back as {after}",
                component=name,
                location=found.location(name),
                evidence={"saved": found.theirs, "reloaded": found.ours},
            )


def _unsaved(name: str, setting: Unsaved) -> Finding:
    return Finding(
        "GM605" if setting.changes_results else "GM606",
        f"{setting.name} was set to {setting.live!r} while it ran, and comes back as {setting.reloaded!r}",
        component=name,
        location=f"{name}:{setting.name}",
        evidence={"live": setting.live, "reloaded": setting.reloaded},
    )


def _weights(name: str, changed: list[TensorDifference]) -> Finding:
    first = next((difference for difference in changed if difference.pair is not None), changed[0])
    comparison = first.detail()
    likeness = comparison.likeness if comparison is not None else None
    looks = f": {likeness.text}" if likeness else ""
    return Finding(
        "GM601",
        f"{len(changed)} tensors do not survive; {first.name} {first.what} after the reload{looks}",
        component=name,
        location=first.name,
        cause=likeness.hint if likeness else "what is not in the state dict is not saved (persistent=False)",
        evidence={
            **name_evidence([difference.name for difference in changed]),
            **_apart(changed, comparison),
        },
    )


def _apart(changed: list[TensorDifference], first: Comparison | None) -> dict[str, Any]:
    """How far the first pair is, and what all of them would pass; nothing does where a tensor is on one side only."""
    if first is None or any(difference.pair is None for difference in changed):
        return {}
    return beyond_tolerance([first, *(difference.figures() for difference in changed if difference.pair)])


def _schedule(live: Any, reloaded: Any, steps: int) -> Iterator[Finding]:
    import torch

    before, after = schedule(live, steps), schedule(reloaded, steps)
    for array in before:
        if array not in after or not torch.equal(before[array], after[array]):
            yield Finding(
                "GM602",
                f"the {array} for {steps} steps come back changed",
                component="scheduler",
                location=f"scheduler:{array}",
            )
