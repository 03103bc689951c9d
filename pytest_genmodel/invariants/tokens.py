"""Tokenizers, judged by what they do: the ids of fixed texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.pipeline import Pipeline

TEXTS = (
    "a red square moves right",
    "a blue circle moves left",
    "A panda plays the guitar in a bamboo forest, cinematic, 4k.",
    "blurry",
    "",
)
"""Texts with letters of both cases, digits, punctuation, and nothing at all."""


def token_ids(tokenizer: Any) -> Mapping[str, list[int]]:
    """The ids of each text, by the text."""
    with quiet():
        return {text: list(tokenizer(text)["input_ids"]) for text in TEXTS}


def tokenizer_findings(pipeline: Pipeline, name: str) -> Iterator[Finding]:
    """Tell a tokenizer from the stub that transformers builds when its files are gone.

    A stub turns every word into <unk>, so that two texts of equal length get equal ids.
    """
    tokenizer = pipeline.component(name)
    ids = token_ids(tokenizer)
    if ids[TEXTS[0]] == ids[TEXTS[1]]:
        yield Finding(
            "GM107",
            f"{TEXTS[0]!r} and {TEXTS[1]!r} become the same ids: the tokenizer ({len(tokenizer)} entries) knows "
            "no word of them",
            component=name,
            location=f"{name}/",
            cause="the vocabulary file is missing from the folder; transformers builds a stub without a message",
            evidence={"entries": len(tokenizer), "ids": ids[TEXTS[0]]},
        )
