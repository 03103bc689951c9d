"""The denoiser's first call once more: with another seed, and with a prompt that is as long as it may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.conditions import kind_of
from pytest_genmodel.pipelines.denoiser_call import DenoiserCall, record_call
from pytest_genmodel.pipelines.families.call import call_parameters
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.observed_run import STEPS, ObservedRun
from pytest_genmodel.pipelines.recording import Argument, Recorded

if TYPE_CHECKING:
    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe

OTHER_WORDS = ("a", "the", "of", "moves")
"""For the end of a prompt whose own words are all the same."""
NO_LIMIT = 1 << 16
"""What tokenizers say for "any length" is more than so many tokens."""


@dataclass(frozen=True)
class LongPrompts:
    """Two prompts that differ in their last word alone, each of `tokens` tokens; `room` is how many there may be."""

    first: str
    second: str
    tokens: int
    room: int


@dataclass(frozen=True, eq=False)
class Again:
    """What the denoiser is told in its first call for the next seed and each of the long prompts.

    `call` is the first one's. `told` is what both were told; of a pipeline without a prompt it is one. `rows` says
    for each row of a step (of one call, or of two) whether the last word changes its text; empty without a prompt.
    """

    call: DenoiserCall
    told: tuple[Mapping[str, Argument], ...]
    prompts: LongPrompts | None
    rows: tuple[bool, ...]


def ask_again(context: Context, run: ObservedRun) -> Again:
    """Start two samples and break each off at its first call; four, where that call takes no text of the prompt."""
    pipeline = context.candidate
    name = pipeline.family.denoiser
    with quiet():
        prompts = long_prompts(pipeline, run.probe)
    texts = [run.probe.prompt] if prompts is None else [prompts.first, prompts.second]

    def recorded(after: int) -> list[DenoiserCall]:
        return [
            record_call(
                pipeline.diffusers,
                pipeline.family,
                pipeline.checkpoint,
                run.probe.but(steps=STEPS, seed=run.probe.seed + 1, prompt=text),
                pipeline.placement.device,
                after=after,
            )
            for text in texts
        ]

    model = pipeline.component(name)
    calls = recorded(0)
    told = tuple(call.told(model) for call in calls)
    if prompts is None:
        return Again(calls[0], told, None, ())
    rows = _changed(*told)
    in_step = [seen for seen in run.denoised if seen.step == 0]
    if not any(rows) and len(rows) == 1 and len(in_step) == 2 and in_step[1].call.model == name:
        rows += _changed(*(call.told(model) for call in recorded(1)))
    return Again(calls[0], told, prompts, rows + (False,) * (len(in_step) - len(rows)))


def _changed(first: Mapping[str, Argument], second: Mapping[str, Argument]) -> tuple[bool, ...]:
    """For each row whether the states of the text differ."""
    rows: list[bool] = []
    for path in states(first):
        a, b = first[path], second.get(path)
        if not isinstance(a, Recorded) or not isinstance(b, Recorded) or a.shape != b.shape:
            continue
        differs = (a.values != b.values).flatten(1).any(1).tolist()
        rows = [x or y for x, y in zip(rows or [False] * len(differs), differs, strict=False)]
    return tuple(rows)


def states(told: Mapping[str, Argument]) -> list[str]:
    """The arguments that hold a state for each token of the text: (batch, token, channel)."""
    return [
        path
        for path, value in told.items()
        if isinstance(value, Recorded) and value.whole and len(value.shape) == 3 and kind_of(path) == "text"
    ]


def long_prompts(pipeline: Pipeline, probe: Probe) -> LongPrompts | None:
    """Words of the probe's prompt, again and again, as many as fit; None where there is no prompt to be made longer.

    There is room for what the call takes as `max_sequence_length`, without the end of the family's template, and no
    more than the tokenizer's own limit.
    """
    live = pipeline.diffusers
    tokenizer, parameters = getattr(live, "tokenizer", None), call_parameters(type(live))
    if tokenizer is None or "prompt" not in parameters or not pipeline.family.is_known:
        return None
    asked = pipeline.family.call_arguments(pipeline.checkpoint, probe)
    default = parameters["max_sequence_length"].default if "max_sequence_length" in parameters else None
    limits = (asked.get("max_sequence_length", default), getattr(tokenizer, "model_max_length", None))
    room = min((limit for limit in limits if isinstance(limit, int) and limit < NO_LIMIT), default=0)
    room -= pipeline.family.prompt_tail

    def length(text: str) -> int:
        return len(tokenizer(text).input_ids)

    words = probe.prompt.split() or list(OTHER_WORDS)
    least, most = 1, max(room, 1)
    while least < most:  # the largest number of words whose tokens fit
        middle = (least + most + 1) // 2
        least, most = (middle, most) if length(_text(words, middle)) <= room else (least, middle - 1)
    if length(_text(words, least)) > room:
        return None
    first = _text(words, least)
    start = first.rpartition(" ")[0]
    for word in dict.fromkeys((*words, *OTHER_WORDS)):
        second = f"{start} {word}".strip()
        if tokenizer(second).input_ids != tokenizer(first).input_ids and (tokens := length(first)) == length(
            second
        ):
            return LongPrompts(first, second, tokens, room)
    return None


def _text(words: list[str], count: int) -> str:
    return " ".join(words[place % len(words)] for place in range(count))
