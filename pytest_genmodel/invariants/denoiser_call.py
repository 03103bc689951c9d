"""denoiser_call: for one probe, reference and candidate give their denoiser the same, and their components answer
alike."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.image_condition import distance
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.invariants.configuration import same_config
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.pipelines.component_calls import ComponentCall, RecordedSample, record_sample
from pytest_genmodel.pipelines.conditions import TIME, Piece, kind_of
from pytest_genmodel.pipelines.equality import compare_stored
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.recording import Call, Recorded

BUDGETS = {
    "float32": {"vae.encode": 1e-4, "vae.decode": 1e-3, "": 1e-4},
    "float16": {"vae.encode": 5e-3, "vae.decode": 2e-2, "": 1e-2},
    "bfloat16": {"vae.encode": 3e-2, "vae.decode": 6e-2, "": 4e-2},
}
"""Relative difference that a component's output may have in a dtype, by what is called; "" for all others."""
_SOURCES = {
    "text": ("text_encoder", "tokenizer"),
    "image": ("vae", "image_encoder"),
    "positions": ("transformer",),
}


@invariant(needs_reference=True)
def denoiser_call(context: Context) -> Iterator[Finding]:
    """Reference and candidate tell their denoiser the same, argument by argument, and their components answer alike.

    First and last step of one sample; then each component of the candidate is given what the reference's was given.
    What the expectation lets differ (the denoiser of a fine-tuned model) is not judged by what it answers. Costs a
    pipeline run a side, none where weights, configuration and schedule are equal.
    """
    candidate, reference, probe = context.candidate, context.reference, context.probe
    if not context.is_full and _is_proven(context):
        context.measure(calls="proven equal: weights, configuration and schedule are")
        return
    theirs = record_sample(reference, probe)
    ours = record_sample(candidate, probe)
    if not ours.calls or not theirs.calls:
        context.cannot_judge("the pipeline came to its end without calling its denoiser")
    answers = list(_answers(context, candidate, theirs))
    told = list(
        _arguments(ours.calls[0], theirs.calls[0], _floor(context), context.candidate.family.latent_axes)
    )
    context.measure(
        arguments=len(theirs.calls[0].arguments), components=len(theirs.components), steps=probe.steps
    )
    guilty = {finding.component for finding in answers}
    for finding in told:
        yield _with_cause(finding, guilty)
    yield from answers
    if not told and not answers:
        yield from _last(context, ours, theirs)


def _is_proven(context: Context) -> bool:
    candidate, reference = context.candidate, context.reference
    if candidate.checkpoint.adapter is not None or candidate.placement != reference.placement:
        return False
    if candidate.components != reference.components:
        return False
    for name, theirs in reference.checkpoint.components.items():
        ours = candidate.checkpoint.components[name]
        if ours.class_name != theirs.class_name or ours.has_weights != theirs.has_weights:
            return False
        if ours.has_weights and not compare_stored(ours, theirs).is_empty:
            return False
    return not any(True for _ in same_config(context))


def _floor(context: Context) -> float:
    """What conditions may differ by: the looser of both sides' dtypes."""
    return max(_budget(pipeline, "") for pipeline in (context.candidate, context.reference))


def _budget(pipeline: Pipeline, called: str) -> float:
    budgets = BUDGETS.get(pipeline.placement.dtype, BUDGETS["bfloat16"])
    return budgets.get(called, budgets[""])


def _arguments(ours: Call, theirs: Call, limit: float, axes: tuple[str, ...]) -> Iterator[Finding]:
    """The first step's arguments by name; the noise, which the seed decides, is among them."""
    missing: set[str] = set()
    for path in dict.fromkeys((*theirs.arguments, *ours.arguments)):
        base = path.partition("[")[0]
        a, b = ours.arguments.get(path), theirs.arguments.get(path)
        if a is None or b is None:
            if base not in missing:
                missing.add(base)
                has = "reference" if a is None else "candidate"
                yield Finding("GM902", f"{base} is given to the {has}'s denoiser alone", location=base)
        elif isinstance(a, Recorded) and isinstance(b, Recorded):
            yield from _tensors(path, a, b, limit, axes)
        elif a != b:
            yield Finding("GM902", f"{path} is {a!r}, the reference's {b!r}", location=path)


def _tensors(path: str, a: Recorded, b: Recorded, limit: float, axes: tuple[str, ...]) -> Iterator[Finding]:
    kind = kind_of(path)
    if a.shape != b.shape:
        text = f"{path} is {list(a.shape)}, the reference's {list(b.shape)}"
        yield Finding(
            "GM903" if path in TIME else "GM908" if kind == "positions" else "GM902", text, location=path
        )
        return
    if a.digest == b.digest or (gap := distance(a.values, b.values)) <= (0 if path in TIME else limit):
        return
    if path in TIME:
        ours, theirs = _that_differ(a, b)
        text = f"{path} is {ours} in the first step, the reference's {theirs}"
        yield Finding("GM903", text, location=path, evidence={"candidate": ours, "reference": theirs})
        return
    from pytest_genmodel.tensors import explain

    likeness = explain(a.values.float(), b.values.float())
    yield Finding(
        "GM908" if kind == "positions" else "GM901",
        f"{path} differs in the first step: relative difference {gap:.3g}"
        + (f"; {likeness.text}" if likeness else ""),
        location=_place(path, a, b, limit, axes),
        cause=likeness.hint if likeness else None,
        evidence={"relative_difference": gap, **against(gap, limit, "relative difference")},
    )


def _place(path: str, a: Recorded, b: Recorded, limit: float, axes: tuple[str, ...]) -> str:
    """The channels that differ, where the argument has the layout of the latents."""
    if "channel" not in axes or len(axes) != len(a.shape) or not a.whole:
        return path
    axis = axes.index("channel")
    pairs = zip(a.values.unbind(axis), b.values.unbind(axis), strict=True)
    places = [place for place, (x, y) in enumerate(pairs) if distance(x, y) > limit]
    if not places or len(places) == a.shape[axis]:
        return path
    return Piece(path, "image", axis, places[0], places[-1] + 1, "channels").place


def _with_cause(finding: Finding, guilty: set[str | None]) -> Finding:
    """Say where a condition that differs comes from: the component that answers otherwise, or what is before it."""
    from dataclasses import replace

    if finding.code != "GM901" or finding.location is None:
        return finding
    base = finding.location.partition("[")[0]
    sources = (
        _SOURCES["image" if base in ("hidden_states", "sample") else kind_of(base)]
        if (base in ("hidden_states", "sample") or kind_of(base) in _SOURCES)
        else ()
    )
    known = next((name for name in sources if any(str(part).startswith(name) for part in guilty)), None)
    if known is not None:
        return replace(finding, cause=f"the {known} answers otherwise to the same input")
    if sources:
        first = " or ".join(sources)
        return replace(
            finding,
            cause=f"{first}: with the same input the models answer alike, so that what they are given, or a "
            "factor of their configuration, differs",
        )
    return finding


def _answers(context: Context, candidate: Pipeline, theirs: RecordedSample) -> Iterator[Finding]:
    """Each of the candidate's components, given the reference's input."""
    denoisers = candidate.denoisers
    order = {"text_encoder": 0, "image_encoder": 1, "vae.encode": 2, "vae.decode": 4}
    for call in sorted(theirs.components, key=lambda call: order.get(call.name, 3)):
        if call.component not in candidate.components:
            continue
        if call.component in denoisers and (
            context.contract.of(call.component) is not Change.FORBIDDEN
            or candidate.checkpoint.adapter is not None
        ):
            continue
        yield from _answer(candidate, call, denoisers)


def _answer(candidate: Pipeline, call: ComponentCall, denoisers: tuple[str, ...]) -> Iterator[Finding]:
    code = {"vae.encode": "GM905", "vae.decode": "GM906"}.get(call.name) or (
        "GM907" if call.component in denoisers else "GM904"
    )
    try:
        output = call.replayed(candidate)
    except (RuntimeError, ValueError, TypeError) as error:
        text = f"{call.name} does not take what the reference's takes: {type(error).__name__}: {error}"
        yield Finding(code, text.splitlines()[0], component=call.component, location=call.name)
        return
    limit = _budget(candidate, call.name)
    if output.shape != call.output.shape:
        was = list(call.output.shape)
        text = f"{call.name} gives {list(output.shape)} for the reference's input, the reference's {was}"
        yield Finding(code, text, component=call.component, location=call.name)
    elif (gap := distance(output, call.output)) > limit or gap != gap:
        from pytest_genmodel.tensors import explain

        likeness = explain(output.float(), call.output.float())
        yield Finding(
            code,
            f"{call.name} answers otherwise to the reference's input: relative difference {gap:.3g} (limit "
            f"{limit:g})" + (f"; {likeness.text}" if likeness else ""),
            component=call.component,
            location=call.name,
            cause=likeness.hint if likeness else None,
            evidence={"relative_difference": gap, **against(gap, limit, "relative difference")},
        )


def _that_differ(a: Recorded, b: Recorded) -> tuple[list[float], list[float]]:
    """A few values of each, those that differ: tokens of a kept frame have a time that is 0 on both sides."""
    ours, theirs = a.values.flatten(), b.values.flatten()
    if ours.shape == theirs.shape and bool((unlike := ours != theirs).any()):
        ours, theirs = ours[unlike], theirs[unlike]
    return ours[:3].tolist(), theirs[:3].tolist()


def _last(context: Context, ours: RecordedSample, theirs: RecordedSample) -> Iterator[Finding]:
    """The last step: its timestep, and its noisy latents where nothing between the two may differ."""
    a, b = ours.calls[-1], theirs.calls[-1]
    if a.model != b.model:
        yield Finding(
            "GM903", f"the last step is taken by {a.model}, the reference's by {b.model}", location=a.model
        )
        return
    may_differ = context.candidate.checkpoint.adapter is not None or any(
        context.contract.of(name) is not Change.FORBIDDEN for name in context.candidate.denoisers
    )
    for path, theirs_ in b.tensors.items():
        value = a.tensors.get(path)
        if value is None or value.digest == theirs_.digest:
            continue
        if path in TIME:
            if value.shape == theirs_.shape and bool((value.values == theirs_.values).all()):
                continue  # a step is one step, as a whole number or not
            mine, other = _that_differ(value, theirs_)
            yield Finding(
                "GM903", f"{path} of the last step is {mine}, the reference's {other}", location=path
            )
        elif not may_differ and value.shape == theirs_.shape:
            gap, limit = distance(value.values, theirs_.values), 10 * _floor(context)
            if gap > limit:
                text = f"{path} of the last step differs: relative difference {gap:.3g}; the first step is the same"
                evidence = against(gap, limit, "relative difference")
                yield Finding("GM909", text, component="scheduler", location=path, evidence=evidence)
