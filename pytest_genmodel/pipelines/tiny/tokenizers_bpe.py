"""Byte-pair tokenizers made by rule: CLIP's, Llama's and Gemma's, in memory, offline, equal in every process.

A rule takes the place of training: each word of a list is joined from the left until it is one piece. A merge that
is added later has a lower priority, so that a word which is one piece stays one.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

_SPACE = "▁"
_SIGNS = tuple(sign for sign in string.printable if not sign.isspace())


def merges_for(words: Iterable[Sequence[str]]) -> list[tuple[str, str]]:
    """Return the merges that make each of `words` (sequences of symbols) one piece, in the order of priority."""
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = joined(word, merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return merges


def joined(word: Sequence[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Return the pieces of `word` after `merges`, as a byte-pair tokenizer finds them."""
    rank = {pair: number for number, pair in reversed(list(enumerate(merges)))}
    pieces = list(word)
    while True:
        pairs = [(rank[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in rank]
        if not pairs:
            return pieces
        at = min(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def clip_tokenizer(words: Iterable[str], *, max_length: int = 77) -> Any:
    """Return a genuine CLIP tokenizer over `words`; any other ASCII word is spelt letter by letter.

    The end token has the last id: CLIP takes the text's embedding from the place of the largest one.
    `max_length` (tokens, both ends included) is the tokenizer's ``model_max_length``.
    """
    from transformers import CLIPTokenizer

    merges = merges_for((*word[:-1], f"{word[-1]}</w>") for word in sorted(set(words)))
    pieces = [*_SIGNS, *(f"{sign}</w>" for sign in _SIGNS), *(left + right for left, right in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab=_ids(pieces), merges=merges, model_max_length=max_length)


def llama_tokenizer(words: Iterable[str], *, specials: Sequence[str], max_length: int) -> Any:
    """Return a genuine Llama tokenizer over `words`: `<s>` first, padding on the right with `<pad>` (id 3).

    `words` may carry a leading space (as ``▁``) or none, and may be signs or line breaks; anything else is spelt,
    what is no ASCII by its bytes. `specials` become added tokens, in their order, after the vocabulary.
    """
    from transformers import LlamaTokenizerFast

    listed = sorted(set(words))
    merges = merges_for(listed)
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    pieces = ["<unk>", "<s>", "</s>", "<pad>", *bytes_, _SPACE, "\n", *_SIGNS]
    pieces += [left + right for left, right in merges]
    return LlamaTokenizerFast(
        vocab=_ids(pieces),
        merges=merges,
        pad_token="<pad>",
        additional_special_tokens=list(specials),
        model_max_length=max_length,
        padding_side="right",
        add_bos_token=True,
    )


def gemma_tokenizer(words: Iterable[str], *, max_length: int, padding_side: str = "right") -> Any:
    """Return a genuine Gemma tokenizer over `words`, as `llama_tokenizer`: `<bos>` first, padding with id 0."""
    from transformers import GemmaTokenizer

    listed = sorted(set(words))
    merges = merges_for(listed)
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *bytes_, _SPACE, "\n", *_SIGNS]
    pieces += [left + right for left, right in merges]
    return GemmaTokenizer(
        vocab=_ids(pieces),
        merges=merges,
        model_max_length=max_length,
        padding_side=padding_side,
        add_bos_token=True,
    )


def _ids(pieces: Iterable[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
