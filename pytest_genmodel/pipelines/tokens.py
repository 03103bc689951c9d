"""What tokenizers do: the ids of fixed texts, alone and as a pipeline asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_genmodel.pipelines.library import quiet

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


@dataclass(frozen=True)
class TokenFacts:
    """What one tokenizer does: its settings that act, and the ids of each text, alone and filled up."""

    settings: Mapping[str, Any]
    ids: Mapping[str, list[int]]
    filled: Mapping[str, list[int]]


def token_facts(tokenizer: Any) -> TokenFacts:
    """Ask a live tokenizer; files and classes do not matter."""
    return TokenFacts(_settings(tokenizer), token_ids(tokenizer), _filled(tokenizer))


def token_differences(ours: Any, theirs: Any) -> list[TokenDifference]:
    """Say what differs between two tokenizers as a pipeline uses them, each live or what is on record of it.

    Settings first, each by itself; then the first text whose ids differ, alone, or filled up and cut as a pipeline
    asks for it (that only where no setting says why).
    """
    a, b = (side if isinstance(side, TokenFacts) else token_facts(side) for side in (ours, theirs))
    found = [
        TokenDifference(name, a.settings.get(name), b.settings[name])
        for name in b.settings
        if a.settings.get(name) != b.settings[name]
    ]
    ids, wanted = a.ids, b.ids
    if not found and ids == wanted:
        ids, wanted = a.filled, b.filled
    if text := next((text for text in wanted if text in ids and ids[text] != wanted[text]), None):
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
