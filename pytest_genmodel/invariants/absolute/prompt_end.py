"""GM974: whether a prompt reaches the denoiser to its last word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.invariants.absolute.again import Again, states
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.recording import Argument, Recorded

MASK = "encoder_attention_mask"


def prompt_findings(context: Context, again: Again) -> Iterator[Finding]:
    """The last word of a prompt that is as long as it may be changes the states, and each token has one."""
    prompts, told = again.prompts, again.told[0]
    paths = states(told)
    if prompts is None or not paths or not context.candidate.family.is_known:
        context.measure(prompt="not judged: there is none, or its states are not known here")
        return
    name = context.candidate.family.denoiser
    where = paths[0]
    if not any(again.rows):
        yield Finding(
            "GM974",
            f"another last word changes nothing of what the {name} is told of a prompt of {prompts.tokens} tokens, "
            f"and there is room for {prompts.room}",
            component="text_encoder",
            location="prompt",
            cause="the prompt is cut before it is encoded: a limit that belongs to another model or another text "
            "encoder",
        )
        return
    held = _held(told, where, again.rows.index(True))
    if held is None:  # the prompt's row is in the step's second call, which the guidance tells
        return
    context.measure(prompt=f"{prompts.tokens} tokens, {held} states")
    if held < prompts.tokens - _special(context):
        yield Finding(
            "GM974",
            f"a prompt of {prompts.tokens} tokens reaches the {name} in {held} states; there is room for "
            f"{prompts.room}",
            component=name,
            location=where,
            cause="the states are cut, or filled with zeros, after they are made",
            evidence=against(held, prompts.tokens, "states of the text", least=True),
        )


def _held(told: Mapping[str, Argument], path: str, row: int) -> int | None:
    """How many states of a row are there: none of zeros, and none behind the mask; None without such a row."""
    value = told[path]
    if not isinstance(value, Recorded) or row >= len(value.values):
        return None
    found = value.values[row].float().abs().amax(-1) > 0
    mask = told.get(MASK)
    if isinstance(mask, Recorded) and mask.whole and mask.shape == value.shape[:2]:
        found &= mask.values[row] > 0.5
    return int(found.sum())


def _special(context: Context) -> int:
    """Tokens that the tokenizer adds, and that a pipeline with a template of its own has elsewhere."""
    tokenizer = getattr(context.candidate.diffusers, "tokenizer", None)
    return 0 if tokenizer is None else len(tokenizer("").input_ids)
