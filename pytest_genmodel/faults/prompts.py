"""Faults of a library on the way of a prompt: what fills it up, the masks that say so, the order of its words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.library import class_of, component_sees, denoiser_sees, only_for, pipeline_class
from pytest_genmodel.faults.registry import Place, broken_library
from pytest_genmodel.pipelines.replaced import Original, replaced


@broken_library(
    "GM914",
    "padding_is_ignored",
    place=Place("text_encoder", "attention_mask"),
    layer="text-encoder",
    model="wan2.1-i2v",
    entries=("chroma-padding-mask-order",),
    seen_in="https://github.com/huggingface/diffusers/pull/12508",
)
@contextmanager
def padding_counts_as_text(copy: Copy) -> Iterator[None]:
    """The mask of the text encoder covers what was filled up: padding counts as words."""
    only_for(copy, "wan")

    def make(original: Original) -> Original:
        def forward(self: Any, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
            return original(self, input_ids, attention_mask * 0 + 1, **options)

        return forward

    with replaced(class_of(copy, "text_encoder"), "forward", make):
        yield


@broken_library(
    "GM915",
    "padding_is_ignored",
    place=Place("text_encoder", "attention_mask"),
    layer="text-encoder",
    model="wan2.1-i2v",
)
@contextmanager
def mask_not_handed_to_the_text_encoder(copy: Copy) -> Iterator[None]:
    """The text encoder is given the ids alone, and reads what fills the prompt up."""
    only_for(copy, "wan")
    with component_sees(copy, "text_encoder", lambda given: given | {"attention_mask": None}):
        yield


@broken_library(
    "GM916",
    "padding_is_ignored",
    place=Place("transformer", "encoder_hidden_states"),
    layer="text-encoder",
    model="wan2.1-i2v",
    entries=("chroma-padding-mask-order",),
    seen_in="https://github.com/huggingface/diffusers/pull/12508",
)
@contextmanager
def padding_not_cut_before_it_is_filled_up(copy: Copy) -> Iterator[None]:
    """The states of the padding are kept where zeros must stand."""
    only_for(copy, "wan")

    def kept(given: dict[str, Any]) -> dict[str, Any]:
        states = given["encoder_hidden_states"]
        empty = (states == 0).all(-1, keepdim=True)
        return given | {"encoder_hidden_states": states + empty * states[:, :1]}

    with denoiser_sees(copy, kept):
        yield


@broken_library(
    "GM913",
    "padding_is_ignored",
    place=Place("transformer", "encoder_attention_mask"),
    layer="text-encoder",
    model="ltx-i2v",
)
@contextmanager
def mask_lost_inside_the_denoiser(copy: Copy) -> Iterator[None]:
    """The denoiser is given the mask of the text, and loses it before its blocks."""
    if "transformer" not in (copy.family.masks_padding or ()):
        copy.does_not_apply("the denoiser is given no mask")

    def make(original: Original) -> Original:
        def forward(self: Any, *arguments: Any, encoder_attention_mask: Any = None, **options: Any) -> Any:
            return original(
                self, *arguments, encoder_attention_mask=encoder_attention_mask * 0 + 1, **options
            )

        return forward

    with replaced(class_of(copy, copy.denoiser), "forward", make):
        yield


@broken_library(
    "GM913",
    "padding_is_ignored",
    place=Place("connectors", "attention_mask"),
    layer="text-encoder",
    model="ltx2-i2v",
)
@contextmanager
def mask_lost_before_the_denoiser(copy: Copy) -> Iterator[None]:
    """What stands between text encoder and denoiser loses the mask: what filled the prompt up is read as words."""
    only_for(copy, "ltx2")

    def make(original: Original) -> Original:
        def forward(
            self: Any, text_encoder_hidden_states: Any, attention_mask: Any, *more: Any, **options: Any
        ) -> Any:
            return original(self, text_encoder_hidden_states, attention_mask * 0 + 1, *more, **options)

        return forward

    with replaced(class_of(copy, "connectors"), "forward", make):
        yield


@broken_library(
    "GM912",
    "tensors_matter",
    place=Place("text_encoder", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    layer="text-encoder",
)
@contextmanager
def order_of_the_words_ignored(copy: Copy) -> Iterator[None]:
    """The text encoder's table of distances between words is loaded, and never read."""
    only_for(copy, "cogvideox")
    from transformers.models.t5.modeling_t5 import T5Attention

    def make(original: Original) -> Original:
        return lambda self, *arguments, **options: original(self, *arguments, **options).detach() * 0

    with replaced(T5Attention, "compute_bias", make):
        yield


@broken_library("GM974", "absolute_checks", place=Place("text_encoder", "prompt"), layer="text-encoder")
@contextmanager
def prompt_cut_before_it_is_encoded(copy: Copy) -> Iterator[None]:
    """The prompt is cut at half of the tokens that the model takes: what it ends with is lost."""
    only_for(copy, "cogvideox")

    def make(original: Original) -> Original:
        def encoded(self: Any, *arguments: Any, max_sequence_length: int = 226, **options: Any) -> Any:
            import torch

            half = max_sequence_length // 2
            states = original(self, *arguments, max_sequence_length=half, **options)
            filled = states.new_zeros(len(states), max_sequence_length - half, states.shape[2])
            return torch.cat([states, filled], 1)

        return encoded

    with replaced(pipeline_class(copy), "_get_t5_prompt_embeds", make):
        yield


@broken_library(
    "GM974",
    "absolute_checks",
    place=Place("transformer", "encoder_hidden_states"),
    layer="text-encoder",
    model="wan2.1-i2v",
)
@contextmanager
def states_of_the_text_cut_short(copy: Copy) -> Iterator[None]:
    """The whole prompt is encoded, and zeros stand for the states of its end."""

    def cut(given: dict[str, Any]) -> dict[str, Any]:
        text = given["encoder_hidden_states"].clone()
        text[:, text.shape[1] // 2 :] = 0
        return given | {"encoder_hidden_states": text}

    with denoiser_sees(copy, cut):
        yield


@broken_library("GM936", "absolute_checks", place=Place(None, "step 1"), layer="text-encoder")
@contextmanager
def prompts_exchanged(copy: Copy) -> Iterator[None]:
    """The pipeline encodes the negative prompt for the prompt, and the prompt for the negative one."""
    only_for(copy, "cogvideox")

    def make(original: Original) -> Original:
        def encode_prompt(
            self: Any, prompt: Any, negative_prompt: Any = None, *rest: Any, **options: Any
        ) -> Any:
            return original(self, negative_prompt or "", prompt, *rest, **options)

        return encode_prompt

    with replaced(pipeline_class(copy), "encode_prompt", make):
        yield
