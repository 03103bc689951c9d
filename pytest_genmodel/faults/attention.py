"""Faults of kernels and precision: attention, convolution, casts, checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.library import class_of, only_for
from pytest_genmodel.faults.registry import Place, broken_library
from pytest_genmodel.pipelines.replaced import Original, replaced

_LAYER = "precision/attention-backend"


@contextmanager
def _attention(change: Callable[..., Any]) -> Iterator[None]:
    """Replace torch's attention: `change(original, query, key, value, options)`."""
    import torch.nn.functional as functional

    def make(original: Original) -> Original:
        def attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> Any:
            if rest:
                options["attn_mask"] = rest[0]
            return change(original, query, key, value, options)

        return attention

    with replaced(functional, "scaled_dot_product_attention", make):
        yield


@broken_library(
    "GM932",
    "absolute_checks",
    place=Place(None, "scaled_dot_product_attention"),
    layer=_LAYER,
    entries=("sdpa-efficient-stride0-kv",),
    seen_in="https://github.com/pytorch/pytorch/issues/191937",
)
@contextmanager
def last_key_left_out(copy: Copy) -> Iterator[None]:
    """The attention kernel takes a wrong value for the last token."""

    def wrong(original: Original, query: Any, key: Any, value: Any, options: dict[str, Any]) -> Any:
        value = value.clone()
        value[..., -1, :] = 0
        return original(query, key, value, **options)

    with _attention(wrong):
        yield


@broken_library(
    "GM932",
    "absolute_checks",
    place=Place(None, "scaled_dot_product_attention"),
    layer=_LAYER,
    model="hunyuan-i2v",
    entries=("hunyuanvideo-31-attention-torch-mode", "sdpa-bf16-mask-wrong"),
    seen_in="https://github.com/Tencent-Hunyuan/HunyuanVideo/issues/31",
)
@contextmanager
def attention_mask_ignored(copy: Copy) -> Iterator[None]:
    """The attention kernel passes over its mask."""
    if not copy.family.name.startswith(("hunyuan", "ltx")):
        copy.does_not_apply("the denoiser's attention has no mask")

    def without(original: Original, query: Any, key: Any, value: Any, options: dict[str, Any]) -> Any:
        return original(query, key, value, **{**options, "attn_mask": None})

    with _attention(without):
        yield


@broken_library(
    "GM932", "absolute_checks", place=Place("transformer", "transformer_blocks.0.attn1"), layer=_LAYER
)
@contextmanager
def attention_not_scaled(copy: Copy) -> Iterator[None]:
    """The attention kernel does not divide by the root of the head's width."""

    def unscaled(original: Original, query: Any, key: Any, value: Any, options: dict[str, Any]) -> Any:
        return original(query, key, value, **{**options, "scale": 1.0})

    with _attention(unscaled):
        yield


@broken_library(
    "GM933",
    "absolute_checks",
    place=Place(None, "conv3d"),
    layer=_LAYER,
    entries=("conv3d-bf16-wrong-cudnn",),
    seen_in="https://github.com/pytorch/pytorch/issues/163539",
)
@contextmanager
def convolution_wrong_for_large_inputs(copy: Copy) -> Iterator[None]:
    """A convolution kernel gives wrong values from a certain size on."""
    import torch.nn.functional as functional

    def make(original: Original) -> Original:
        def conv(data: Any, *arguments: Any, **options: Any) -> Any:
            result = original(data, *arguments, **options)
            return result * 1.05 if data.numel() > 2000 else result

        return conv

    with replaced(functional, "conv3d", make):
        yield


@broken_library(
    "GM618",
    "neutral_transformations",
    level="full",
    place=Place(None, "prediction"),
    layer="trainer-loop",
    entries=("gradient-checkpointing-drops-arguments",),
    seen_in="https://github.com/Stability-AI/generative-models/pull/474",
)
@contextmanager
def checkpointing_drops_arguments(copy: Copy) -> Iterator[None]:
    """With gradient checkpointing on, the blocks of the denoiser do not get the rotary tables."""
    only_for(copy, "cogvideox")
    import inspect
    from functools import wraps

    def make(original: Original) -> Original:
        @wraps(original)
        def enable(self: Any, enable: bool = True, gradient_checkpointing_func: Any = None) -> None:
            def dropping(block: Any, hidden: Any, text: Any, temb: Any, *rest: Any) -> Any:
                return gradient_checkpointing_func(block, hidden, text, temb, *(None for _ in rest))

            original(self, enable=enable, gradient_checkpointing_func=dropping)

        return enable

    if "gradient_checkpointing_func" not in inspect.signature(_setter(copy)).parameters:
        copy.does_not_apply("the installed diffusers switches checkpointing on in another way")
    with replaced(class_of(copy, copy.denoiser), "_set_gradient_checkpointing", make):
        yield


def _setter(copy: Copy) -> Any:
    return class_of(copy, copy.denoiser)._set_gradient_checkpointing


@broken_library("GM610", "neutral_transformations", place=Place(None, "step 1"), layer="version-skew")
@contextmanager
def fused_projections_in_another_order(copy: Copy) -> Iterator[None]:
    """Fusing the projections stacks them in another order than the attention takes them apart."""
    from diffusers.models.attention_processor import Attention

    def make(original: Original) -> Original:
        def fuse(self: Any, fuse: bool = True) -> None:
            original(self, fuse)
            import torch

            if hasattr(self, "to_qkv"):
                query, key, value = self.to_qkv.weight.data.chunk(3)
                self.to_qkv.weight.data.copy_(torch.cat([key, query, value]))

        return fuse

    only_for(copy, "cogvideox")
    with replaced(Attention, "fuse_projections", make):
        yield


@broken_library(
    "GM610",
    "neutral_transformations",
    level="full",
    place=Place(None, "step 1"),
    layer="offload/device",
    entries=("diffusers-11041-group-offload-garbage",),
    seen_in="https://github.com/huggingface/diffusers/issues/11041",
)
@contextmanager
def offloaded_block_runs_too_early(copy: Copy) -> Iterator[None]:
    """An offloaded part runs before its weights have come back."""
    import torch
    from diffusers.hooks import group_offloading

    def make(original: Original) -> Original:
        def pre_forward(self: Any, module: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, module, *arguments, **options)
            for parameter in module.parameters():
                parameter.data = torch.zeros_like(parameter.data)
                break
            return result

        return pre_forward

    with replaced(group_offloading.GroupOffloadingHook, "pre_forward", make):
        yield


@broken_library(
    "GM619",
    "neutral_transformations",
    level="full",
    place=Place(None, "step 1"),
    layer="dtype",
    seen_in="https://github.com/huggingface/diffusers/pull/10685",
)
@contextmanager
def inputs_through_8_bits(copy: Copy) -> Iterator[None]:
    """With layerwise casting the input of a layer is cast to the dtype in which the layer is stored."""
    import torch
    from diffusers.hooks import layerwise_casting

    def make(original: Original) -> Original:
        def pre_forward(self: Any, module: Any, *arguments: Any, **options: Any) -> Any:
            given, options = original(self, module, *arguments, **options)
            return tuple(
                value.to(self.storage_dtype).to(value.dtype) if isinstance(value, torch.Tensor) else value
                for value in given
            ), options

        return pre_forward

    with replaced(layerwise_casting.LayerwiseCastingHook, "pre_forward", make):
        yield


@broken_library("GM504", "seeded_sampling", layer="dtype", place=Place("vae", "frame 0"))
@contextmanager
def vae_overflows(copy: Copy) -> Iterator[None]:
    """The decoder's activations overflow: frames are no numbers."""

    def make(original: Original) -> Original:
        def decode(self: Any, latents: Any, *arguments: Any, **options: Any) -> Any:
            return original(self, latents * float("inf"), *arguments, **options)

        return decode

    with replaced(class_of(copy, "vae"), "decode", make):
        yield
