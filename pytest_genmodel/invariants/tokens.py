"""Tokenizers, judged by what they do: the ids of fixed texts, alone and as a pipeline asks for them."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.tokens import LONGEST, TEXTS, shown, token_differences, token_ids

__all__ = ["LONGEST", "TEXTS", "shown", "token_differences", "token_ids", "tokenizer_findings"]


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
