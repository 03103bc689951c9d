"""Tokenizers, judged by what they do: the ids of fixed texts, alone and as a pipeline asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
LONGEST = 512
"""Tokens that a text is filled up to at most; a tokenizer without a limit of its own names an astronomic one."""
_LONG_TEXT = "one red square, " * (LONGEST // 3)
"""More than `LONGEST` tokens, to see where a text is cut."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class TokenDifference:
    """What two tokenizers do differently: `what` is a setting of tokenizer_config.json, or a text (`is_text`)."""

    what: str
    ours: Any
    theirs: Any
    is_text: bool = False

    def location(self, component: str) -> str:
        """Where to look: the key of the configuration, or the tokenizer's folder."""
        return f"{component}/" if self.is_text else f"{_CONFIG}:{self.what}"


def token_ids(tokenizer: Any) -> Mapping[str, list[int]]:
    """The ids of each text, by the text."""
    with quiet():
        return {text: list(tokenizer(text)["input_ids"]) for text in TEXTS}


def token_differences(ours: Any, theirs: Any) -> list[TokenDifference]:
    """Say what differs between two live tokenizers as a pipeline uses them; files and classes do not matter.

    Settings first, each by itself; then the first text whose ids differ, alone, or filled up and cut as a pipeline
    asks for it (that only where no setting says why).
    """
    mine, other = _settings(ours), _settings(theirs)
    found = [TokenDifference(name, mine[name], other[name]) for name in other if mine[name] != other[name]]
    ids, wanted = token_ids(ours), token_ids(theirs)
    if not found and ids == wanted:
        ids, wanted = _filled(ours), _filled(theirs)
    if text := next((text for text in wanted if ids[text] != wanted[text]), None):
        found.append(TokenDifference(text, ids[text], wanted[text], is_text=True))
    return found


def _settings(tokenizer: Any) -> Mapping[str, Any]:
    with quiet():  # some versions complain of a token that is asked for and not set
        special = {name: getattr(tokenizer, f"{name}_id", None) for name in _SPECIAL}
    side = getattr(tokenizer, "padding_side", None)
    return {"padding_side": side, "model_max_length": _limit(tokenizer), **special}


def _limit(tokenizer: Any) -> int | None:
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < 10**9 else None


def _filled(tokenizer: Any) -> Mapping[str, list[int]]:
    """The ids of each text, filled up and cut to the tokenizer's own length, as pipelines ask for them."""
    length = min(_limit(tokenizer) or LONGEST, LONGEST)
    if getattr(tokenizer, "pad_token_id", None) is None:
        return {}  # no pipeline can fill a text up with it; `token_ids` says the rest
    with quiet():
        return {
            text: list(tokenizer(text, padding="max_length", truncation=True, max_length=length)["input_ids"])
            for text in (*TEXTS, _LONG_TEXT)
        }


def shown(ids: list[int]) -> str:
    """A few ids, for a message: the first and the last, as padding may stand on either side."""
    return str(ids) if len(ids) <= 8 else f"[{', '.join(map(str, ids[:6]))}, ... {ids[-1]}]"


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
