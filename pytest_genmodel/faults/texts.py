"""Faults of the text encoder and its tokenizer: the prompt means something else, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.registry import Place, fault

_LEGACY = "https://github.com/huggingface/transformers/pull/24565"
_VOCABULARY = ("tokenizer.json", "spiece.model", "vocab.json", "merges.txt")


def _tokenizer_json(copy: Copy) -> Path:
    path = copy.path("tokenizer") / "tokenizer.json"
    if not path.is_file():
        copy.does_not_apply("the tokenizer has no tokenizer.json")
    return path


@fault("GM107", "coverage", layer="text-encoder")
def tokenizer_deleted(copy: Copy) -> Place:
    """The tokenizer's folder is empty: a stub is built without a message, and every word is unknown."""
    folder = copy.path("tokenizer")
    copy.delete(folder)
    folder.mkdir()
    return Place("tokenizer")


@fault("GM107", "coverage", layer="text-encoder")
def vocabulary_deleted(copy: Copy) -> Place:
    """The tokenizer's vocabulary was not copied, its configuration was."""
    folder = copy.path("tokenizer")
    files = [folder / name for name in _VOCABULARY if (folder / name).is_file()]
    if not files:
        copy.does_not_apply("the tokenizer has no vocabulary of its own")
    for file in files:
        copy.delete(file)
    return Place("tokenizer")


@fault("GM403", "same_config", layer="text-encoder", needs_reference=True)
def vocabulary_reversed(copy: Copy) -> Place:
    """The vocabulary is in another order: every word has the id of another."""
    path = _tokenizer_json(copy)
    stored = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = stored["model"].get("vocab")
    if isinstance(vocabulary, list):
        scores = [score for _, score in vocabulary]
        words = [word for word, _ in vocabulary]
        words[4:] = reversed(words[4:])
        stored["model"]["vocab"] = [list(pair) for pair in zip(words, scores, strict=True)]
    elif isinstance(vocabulary, dict):
        words = list(vocabulary)
        stored["model"]["vocab"] = dict(
            zip([*words[:4], *reversed(words[4:])], sorted(vocabulary.values()), strict=True)
        )
    else:
        copy.does_not_apply("the tokenizer's vocabulary has another form")
    copy.write(path, json.dumps(stored))
    return Place("tokenizer", "tokenizer/")


@fault(
    "GM403",
    "same_config",
    layer="text-encoder",
    needs_reference=True,
    entries=("t5-tokenizer-legacy-flag",),
    seen_in=_LEGACY,
)
def texts_split_otherwise(copy: Copy) -> Place:
    """Another version of the tokenizer takes texts apart in other places: the same words, other ids."""
    path = _tokenizer_json(copy)
    stored = json.loads(path.read_text(encoding="utf-8"))
    model = stored["model"]
    if isinstance(model.get("vocab"), list):
        model["vocab"] = [[word, -10.0 * len(word) ** 2] for word, _ in model["vocab"]]
    elif model.get("merges"):
        model["merges"] = []
    else:
        copy.does_not_apply("the tokenizer's vocabulary has another form")
    copy.write(path, json.dumps(stored))
    return Place("tokenizer", "tokenizer/")


@fault("GM403", "same_config", layer="text-encoder", needs_reference=True)
def filled_up_on_the_left(copy: Copy) -> Place:
    """Short texts are filled up in front, and the model was trained with them filled up behind."""
    if copy.config("tokenizer").get("padding_side") == "left":
        copy.does_not_apply("the tokenizer fills up on the left itself")
    file = copy.set("tokenizer", padding_side="left")
    return Place("tokenizer", f"{file}:padding_side")


@fault("GM403", "same_config", layer="text-encoder", needs_reference=True)
def texts_cut_early(copy: Copy) -> Place:
    """The tokenizer's longest text is a few tokens long."""
    return Place("tokenizer", copy.set_known("tokenizer", "model_max_length", lambda _: 4))


@fault("GM401", "same_config", layer="text-encoder", needs_reference=True)
def epsilon_of_the_text_encoder(copy: Copy) -> Place:
    """The norms of the text encoder have another epsilon."""
    key = "layer_norm_epsilon"
    if key not in copy.config("text_encoder"):
        key = "layer_norm_eps"
    return Place("text_encoder", copy.set_known("text_encoder", key, lambda _: 1e-2))


@fault("GM202", "coverage", layer="text-encoder")
def text_encoder_one_layer_shorter(copy: Copy) -> Place:
    """The text encoder's configuration asks for one layer fewer than its file holds."""
    key = "num_layers" if "num_layers" in copy.config("text_encoder") else "num_hidden_layers"
    copy.set_known("text_encoder", key, lambda value: value - 1)
    return Place("text_encoder")


@fault(
    "GM437",
    layer="dtype",
    severity="warning",
    needs_reference=True,
    entries=("transformers-dtype-from-config",),
    seen_in="https://github.com/huggingface/transformers/issues/36686",
)
def dtype_of_the_configuration(copy: Copy) -> Place:
    """The text encoder's configuration asks for float16, which newer libraries obey, and the file is in float32."""
    key = next((k for k in ("dtype", "torch_dtype") if k in copy.config("text_encoder")), None)
    if key is None:
        copy.does_not_apply("the text encoder's configuration states no dtype")
    if all(entry.dtype == "F16" for entry in copy.tensors("text_encoder").values()):
        copy.does_not_apply("the text encoder's file holds no more than float16 does")
    return Place("text_encoder", f"{copy.set('text_encoder', **{key: 'float16'})}:{key}")


@fault(
    "GM401",
    "same_config",
    layer="text-encoder",
    model="hunyuan-i2v",
    needs_reference=True,
    entries=("clip-pooling-legacy-eos",),
    seen_in="https://github.com/huggingface/transformers/issues/24650",
)
def end_token_of_clip(copy: Copy) -> Place:
    """CLIP pools at the end token, and its configuration names another one than the tokenizer writes."""
    for name in ("text_encoder", "text_encoder_2"):
        if name in copy.checkpoint.components and "CLIP" in copy.checkpoint.components[name].class_name:
            return Place(name, copy.set_known(name, "eos_token_id", lambda value: value - 1 or 1))
    return copy.does_not_apply("the model has no CLIP text encoder")
