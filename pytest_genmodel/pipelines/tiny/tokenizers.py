"""Tokenizers made by rule, in memory, offline.

A trained vocabulary differs from one process to the next (the trainers iterate over hash maps), and an empty
one turns every word into ``<unk>``. Here the vocabulary is a list written down in order, so ids never move.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Iterable
from typing import Any

_SPECIALS = ("<pad>", "</s>", "<unk>")
_SENTINELS = 4
# Every printable ASCII sign is a piece of its own, so that a word outside the list is spelt, not lost.
_SIGNS = tuple(sign for sign in string.printable if not sign.isspace())


def unigram_vocabulary(words: Iterable[str]) -> list[tuple[str, float]]:
    """Return the unigram vocabulary for `words`: ``(piece, log probability)`` in the order of the ids.

    The order is T5's: pad, end, unknown, the words (sorted, once each, with their leading space mark), the
    bare space mark, the printable ASCII signs, the sentinels in reverse. A whole word beats its spelling.
    """
    pieces: list[tuple[str, float]] = [(special, 0.0) for special in _SPECIALS]
    pieces += [(f"▁{word}", -2.0) for word in sorted(set(words))]
    pieces.append(("▁", -6.0))
    taken = {piece for piece, _ in pieces}
    pieces += [(sign, -8.0) for sign in _SIGNS if sign not in taken]
    pieces += [(f"<extra_id_{index}>", 0.0) for index in reversed(range(_SENTINELS))]
    return pieces


def t5_tokenizer(words: Iterable[str], *, max_length: int) -> Any:
    """Return a genuine T5 tokenizer over `words`, equal in every process.

    A word of the list is one id, and different words have different ids; any other ASCII word is spelt letter
    by letter. `max_length` (tokens, the end token included) is the tokenizer's ``model_max_length``.
    """
    from transformers import T5TokenizerFast

    vocabulary = unigram_vocabulary(words)
    options: dict[str, Any] = {"extra_ids": _SENTINELS, "model_max_length": max_length}
    if "vocab" in inspect.signature(T5TokenizerFast.__init__).parameters:
        return T5TokenizerFast(vocab=vocabulary, **options)
    return T5TokenizerFast(tokenizer_object=_backend(vocabulary), **options)


def _backend(vocabulary: list[tuple[str, float]]) -> Any:
    """Return the same tokenizer for transformers 4, whose T5 class takes no vocabulary."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import Unigram

    def metaspace(module: Any) -> Any:
        return module.Metaspace(replacement="▁", prepend_scheme="always", split=True)

    backend: Any = Tokenizer(Unigram(vocabulary, unk_id=2, byte_fallback=False))
    splitters: list[Any] = [pre_tokenizers.WhitespaceSplit(), metaspace(pre_tokenizers)]
    backend.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    backend.decoder = metaspace(decoders)
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    return backend
