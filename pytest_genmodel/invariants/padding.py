"""padding_is_ignored: what fills a prompt up to its length is no part of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.pipelines.component_calls import ComponentCall, record_sample
from pytest_genmodel.pipelines.curves import distance
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.recording import innermost

if TYPE_CHECKING:
    import torch

LIMITS = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 4e-2}
"""Relative: a masked key has the weight exp(-10,000) or none, so that only the order of a sum may change (measured: 0
for most, 1e-7)."""
MASKS = ("encoder_attention_mask", "attention_mask")
STATES = "encoder_hidden_states"
BETWEEN = "text_encoder_hidden_states"
"""What LTX-2's connectors, between text encoder and transformer, are given for them."""


@invariant
def padding_is_ignored(context: Context) -> Iterator[Finding]:
    """Other tokens, or other states, behind the prompt's mask change neither the prompt's states nor the prediction.

    One short sample; then each component that is given the mask is called once more with something else behind it.
    """
    pipeline = context.candidate
    masked = pipeline.family.masks_padding
    if masked is None:
        context.skip(f"nothing is known here of how {pipeline.checkpoint.pipeline_class} treats padding")
    if not masked:
        context.skip(f"{pipeline.family.title} masks no padding, by design")
    sample = record_sample(pipeline, context.probe.but(steps=2))
    calls = {call.component: call for call in sample.components if call.method == "forward"}
    judged = []
    for name in masked:
        if name not in calls:
            context.cannot_judge(f"the {name} was not called")
        arguments = _bound(pipeline, calls[name])
        takes_states = name in pipeline.denoisers or BETWEEN in arguments
        if not takes_states and arguments.get("input_ids") is None:
            context.cannot_judge(
                f"the {name} is given neither ids nor states under a name that is known here"
            )
        found = (
            _states(pipeline, calls[name], arguments, _is_filled(pipeline, calls))
            if takes_states
            else _tokens(pipeline, calls[name], arguments)
        )
        for finding in found:
            if isinstance(finding, str):
                judged.append(finding)
            else:
                yield finding
    if pipeline.family.zeros_for_padding:
        yield from _zeros(pipeline, calls)
    context.measure(padding=", ".join(judged) or "none is masked in this prompt")


def _bound(pipeline: Pipeline, call: ComponentCall) -> dict[str, Any]:
    """The arguments by the names of forward."""
    model = innermost(pipeline.component(call.component))
    bound = inspect.signature(type(model).forward).bind(None, *call.arguments, **call.options)
    found = dict(list(bound.arguments.items())[1:])
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(name, {})
    return found


def _replayed(pipeline: Pipeline, call: ComponentCall, arguments: Mapping[str, Any]) -> torch.Tensor:
    return replace(call, arguments=(), options=arguments).replayed(pipeline)


def _mask(arguments: Mapping[str, Any]) -> tuple[str, torch.Tensor] | None:
    """The mask of (batch, token), 1 where a token counts."""
    for name in MASKS:
        mask = arguments.get(name)
        if mask is not None and getattr(mask, "ndim", 0) == 2:
            return name, mask > 0.5
    return None


def _tokens(pipeline: Pipeline, call: ComponentCall, arguments: Mapping[str, Any]) -> Iterator[Finding | str]:
    """A text encoder: other ids where the mask is 0."""
    import torch

    name = call.component
    ids, found = arguments["input_ids"], _mask(arguments)
    if found is None or bool(found[1].all()):
        if found is None or _ends_in_padding(pipeline, name, ids):
            yield Finding(
                "GM915",
                f"the {name} is given {'no mask' if found is None else 'a mask that covers everything'}, and the "
                f"prompt is filled up to {ids.shape[1]} tokens",
                component=name,
                location="attention_mask",
                cause="what fills the prompt up is read as words",
            )
        return
    place, mask = found
    other = _another_token(pipeline, name, ids, mask)
    if other is None:
        return
    changed = torch.where(mask, ids, torch.full_like(ids, other))
    # The recorded output is the mean of nothing: the call is made again, so that both are made alike.
    before = _replayed(pipeline, call, arguments)
    after = _replayed(pipeline, call, {**arguments, "input_ids": changed})
    if before.shape[:2] != mask.shape:
        return
    gap = distance(after[mask], before[mask])
    if not gap <= _limit(pipeline):
        yield Finding(
            "GM914",
            f"other tokens behind the mask change the states of the prompt's own tokens by {gap:.2g} (relative, "
            f"limit {_limit(pipeline):g})",
            component=name,
            location=place,
            cause=f"the mask does not reach the attention of the {name}: padding is read as words",
            evidence={"masked": int((~mask).sum()), **against(gap, _limit(pipeline), "relative difference")},
        )
    yield f"{name}: {int((~mask).sum())} tokens"


def _ends_in_padding(pipeline: Pipeline, name: str, ids: torch.Tensor) -> bool:
    """Whether two tokens at least, at one end of each row, are the one that prompts are filled up with."""
    pad = getattr(getattr(pipeline.component(name), "config", None), "pad_token_id", None)
    if pad is None or ids.shape[1] < 3:
        return False
    return bool((ids[:, -2:] == pad).all() or (ids[:, :2] == pad).all())


def _is_filled(pipeline: Pipeline, calls: Mapping[str, ComponentCall]) -> bool:
    """Whether the prompt is shorter than what the text encoder is given."""
    if "text_encoder" not in calls:
        return False
    arguments = _bound(pipeline, calls["text_encoder"])
    ids, found = arguments.get("input_ids"), _mask(arguments)
    masked = found is not None and not bool(found[1].all())
    return masked or (ids is not None and _ends_in_padding(pipeline, "text_encoder", ids))


def _another_token(pipeline: Pipeline, name: str, ids: torch.Tensor, mask: torch.Tensor) -> int | None:
    """A word of the prompt, and no special token."""
    config = getattr(pipeline.component(name), "config", None)
    special = {
        getattr(config, key, None)
        for key in ("pad_token_id", "eos_token_id", "bos_token_id", "image_token_id", "image_token_index")
    }
    flat = [value for value in special if isinstance(value, int)]
    words = [int(token) for token in ids[mask].tolist() if token not in flat and token > 3]
    behind = {int(token) for token in ids[~mask].tolist()}
    return next((token for token in reversed(words) if token not in behind), None)


def _states(
    pipeline: Pipeline, call: ComponentCall, arguments: Mapping[str, Any], is_filled: bool
) -> Iterator[Finding | str]:
    """A denoiser, or what stands before it: other states of the text where the mask is 0."""
    import torch

    key = BETWEEN if BETWEEN in arguments else STATES
    states, found = arguments.get(key), _mask(arguments)
    name = call.component
    if found is None or states is None or (is_filled and bool(found[1].all())):
        yield Finding(
            "GM915",
            f"the {name} is given {'no mask of' if found is None else 'a mask that covers'} the prompt's padding",
            component=name,
            location="encoder_attention_mask" if key == STATES else "attention_mask",
            cause="what fills the prompt up is read as words",
        )
        return
    place, mask = found
    if states.shape[:2] != mask.shape or bool(mask.all()):
        return
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(states.shape, generator=generator) * float(states[mask].float().std())
    changed = torch.where(mask[..., None], states, noise.to(states.dtype))
    before = _replayed(pipeline, call, arguments)
    after = _replayed(pipeline, call, {**arguments, key: changed})
    gap = distance(after, before)
    if not gap <= _limit(pipeline):
        yield Finding(
            "GM913",
            f"other states behind the mask of the text change what the {name} gives by {gap:.2g} (relative, limit "
            f"{_limit(pipeline):g})",
            component=name,
            location=place,
            cause="the mask does not reach the attention to the text",
            evidence={"masked": int((~mask).sum()), **against(gap, _limit(pipeline), "relative difference")},
        )
    yield f"{name}: {int((~mask).sum())} states"


def _zeros(pipeline: Pipeline, calls: Mapping[str, ComponentCall]) -> Iterator[Finding]:
    """Where zeros stand for the padding, nothing else may."""
    name = pipeline.family.denoiser
    if name not in calls or "text_encoder" not in calls:
        return
    states = _bound(pipeline, calls[name]).get(STATES)
    found = _mask(_bound(pipeline, calls["text_encoder"]))
    if states is None or found is None or len(found[1]) != 1:
        return
    words = int(found[1].sum())
    behind = states[-1, words:]
    if bool(behind.any()):
        yield Finding(
            "GM916",
            f"behind the {words} tokens of the prompt the {name} is given {int(behind.any(-1).sum())} states "
            "that are not zero",
            component=name,
            location=STATES,
            cause="the text is cut, or filled up, before the mask is applied to it",
        )


def _limit(pipeline: Pipeline) -> float:
    return LIMITS.get(pipeline.placement.dtype, LIMITS["bfloat16"])
