"""Faults of converters, mergers and quantizers: right names, shapes and statistics, and another model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.checkpoint import INDEX
from pytest_genmodel.faults.copy import Copy, clone
from pytest_genmodel.faults.editing import ADAPTER, edit, edit_metadata
from pytest_genmodel.faults.lora_file import METADATA, adapter_component, adapter_config, adapter_file
from pytest_genmodel.faults.registry import Place, fault
from pytest_genmodel.faults.stored import Change, Entries, Entry

if TYPE_CHECKING:
    import torch

_VALUES, _QUANT = "weights-values", "quantization"
_FLOAT8 = "https://github.com/Lightricks/LTX-2/pull/172"


def _each(copy: Copy, pattern: str, change: Change, component: str | None = None) -> Place:
    """Change every floating-point tensor whose name matches; the place is the first of them."""
    component = component or copy.denoiser
    names = [n for n, e in copy.tensors(component).items() if e.is_float and re.search(pattern, n)]
    if not names:
        copy.does_not_apply(f"the {component} has no tensor like {pattern}")
    copy.rewrite(
        component, lambda entries: {n: e.changed(change) if n in names else e for n, e in entries.items()}
    )
    return Place(component, min(names, key=lambda name: (name.endswith("bias"), names.index(name))))


def _exchange_halves(tensor: torch.Tensor, axis: int = 0) -> torch.Tensor:
    import torch

    return torch.cat(tensor.chunk(2, axis)[::-1], axis)


@fault(
    "GM318",
    "same_weights",
    layer="positional-embedding",
    expect="finetuned",
    seen_in="https://github.com/huggingface/nanotron/pull/427",
)
def rotary_pairs_in_halves(copy: Copy) -> Place:
    """The rows of queries and keys stand as another library's rotary positions want them: in halves, not in pairs."""
    width = int(copy.config(copy.denoiser).get("attention_head_dim") or 0)
    if width < 4 or width % 2:
        copy.does_not_apply("the denoiser's configuration states no width of a head")

    def permute(tensor: torch.Tensor) -> torch.Tensor:
        heads = tensor.reshape(-1, 2, width // 2, *tensor.shape[1:])
        return heads.transpose(1, 2).reshape(tensor.shape).contiguous()

    return _each(copy, r"\bto_[qk]\.(weight|bias)$", permute)


@fault(
    "GM318",
    "same_weights",
    layer=_VALUES,
    expect="finetuned",
    seen_in="https://github.com/leejet/stable-diffusion.cpp/pull/1707",
)
def shift_and_scale_exchanged(copy: Copy) -> Place:
    """The two halves of the last modulation, shift and scale, stand in the order of the original repository."""
    return _each(copy, r"^norm_out\.linear\.(weight|bias)$", _exchange_halves)


@fault(
    "GM318",
    "same_weights",
    layer="image-conditioning",
    expect="finetuned",
    seen_in="https://github.com/utensils/mold/issues/746",
)
def image_before_the_noise(copy: Copy) -> Place:
    """The input channels of image and noise have changed places in the first layer."""
    if copy.family.name != "cogvideox":
        copy.does_not_apply("the image does not enter in the upper channels of patch_embed.proj")
    return _each(copy, r"^patch_embed\.proj\.weight$", lambda tensor: _exchange_halves(tensor, 1))


@fault("GM318", "same_weights", layer="vae", expect="identical")
def kernels_run_backwards_in_time(copy: Copy) -> Place:
    """The VAE's causal convolutions were converted with their time axis reversed."""
    names = [n for n, e in copy.tensors("vae").items() if len(e.shape) == 5 and e.shape[2] > 1]
    if not names:
        copy.does_not_apply("the VAE has no convolution over time")
    copy.rewrite(
        "vae",
        lambda entries: {
            n: e.changed(lambda t: t.flip(2).contiguous()) if n in names else e for n, e in entries.items()
        },
    )
    return Place("vae")


@fault(
    "GM319",
    "same_weights",
    layer=_VALUES,
    expect="finetuned",
    model="cogvideox-i2v-trained",
    seen_in="https://github.com/pytorch/executorch/pull/22444",
)
def norms_without_their_one(copy: Copy) -> Place:
    """The weights of the norms are stored as their distance from 1, as another library keeps them."""
    return _each(copy, r"norm\w*\.weight$", lambda tensor: tensor - 1 if tensor.ndim == 1 else tensor)


@fault("GM319", "same_weights", layer="key-naming", expect="finetuned", model="cogvideox-i2v-trained")
def norms_not_converted(copy: Copy) -> Place:
    """The converter passed over the norms, which kept the ones that a new layer has."""
    return _each(copy, r"norm\w*\.weight$", lambda tensor: tensor * 0 + 1 if tensor.ndim == 1 else tensor)


@fault(
    "GM319",
    "same_weights",
    layer="lora",
    expect="finetuned",
    seen_in="https://github.com/hao-ai-lab/FastVideo/pull/870",
)
def one_layer_scaled(copy: Copy) -> Place:
    """One layer was multiplied by a scale that was meant for its update."""
    name = copy.matrix()
    copy.change(copy.denoiser, name, lambda tensor: tensor * 8)
    return Place(copy.denoiser, name)


def _through_float8(tensor: torch.Tensor, *, scaled: bool) -> torch.Tensor:
    import torch

    if tensor.ndim < 2:
        return tensor
    scale = tensor.float().abs().max().clamp_min(1e-12) / 448
    codes = (tensor.float() / scale).to(torch.float8_e4m3fn).float()
    made: torch.Tensor = (codes * scale if scaled else codes).to(tensor.dtype)
    return made


@fault("GM320", layer=_QUANT, seen_in=_FLOAT8)
def float8_scales_forgotten(copy: Copy) -> Place:
    """Scaled float8 was widened to the old dtype, and nobody multiplied by the scales."""
    copy.change_all(copy.denoiser, lambda tensor: _through_float8(tensor, scaled=False))
    return Place(copy.denoiser)


@fault("GM321", layer=_QUANT, severity="warning")
def saved_after_float8(copy: Copy) -> Place:
    """The weights went through float8 with its scales, and were saved in their old dtype."""
    copy.change_all(copy.denoiser, lambda tensor: _through_float8(tensor, scaled=True))
    return Place(copy.denoiser)


@fault(
    "GM321",
    layer=_QUANT,
    severity="warning",
    seen_in="https://github.com/huggingface/transformers/issues/31293",
)
def saved_after_four_bits(copy: Copy) -> Place:
    """The LoRA was merged into a base of four bits, which was then saved as if it were whole."""

    def through(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim < 2 or tensor.numel() % 32:
            return tensor
        groups = tensor.float().reshape(-1, 32)
        scale = groups.abs().amax(1, keepdim=True).clamp_min(1e-12) / 7
        made: torch.Tensor = ((groups / scale).round() * scale).reshape(tensor.shape).to(tensor.dtype)
        return made

    copy.change_all(copy.denoiser, through)
    return Place(copy.denoiser)


@fault("GM322", layer="key-naming", severity="warning")
def one_block_everywhere(copy: Copy) -> Place:
    """Every block holds the first one: the converter's loop kept its first tensors."""
    names = list(copy.tensors(copy.denoiser))
    blocks = [match[0] for name in names if (match := re.match(r"^.*?blocks\.1\.", name))]
    if not blocks:
        copy.does_not_apply("the denoiser has no two blocks")

    def repeat(entries: Entries) -> Mapping[str, Entry]:
        first = {name: re.sub(r"blocks\.\d+\.", "blocks.0.", name, count=1) for name in entries}
        return {
            name: replace(entries[old], file=entry.file, touched=True)
            if (old := first[name]) != name and old in entries and entries[old].shape == entry.shape
            else entry
            for name, entry in entries.items()
        }

    copy.rewrite(copy.denoiser, repeat)
    return Place(copy.denoiser)


@fault(
    "GM435",
    "same_config",
    layer="config",
    needs_reference=True,
    seen_in="https://github.com/hao-ai-lab/FastVideo/issues/785",
)
def pipeline_of_text_to_video(copy: Copy) -> Place:
    """The model index names the family's text-to-video pipeline, which takes no image."""
    names = {"cogvideox": "CogVideoXPipeline", "wan": "WanPipeline", "ltx": "LTXPipeline"}
    if copy.family.name not in names:
        copy.does_not_apply("the family has no text-to-video pipeline of the same parts")
    copy.set_index(_class_name=names[copy.family.name])
    return Place(None, f"{INDEX}:_class_name")


@fault(
    "GM436",
    layer="config",
    model="wan2.2-a14b-i2v",
    seen_in="https://github.com/kohya-ss/musubi-tuner/issues/552",
)
def one_expert_twice(copy: Copy) -> Place:
    """The expert of much noise lies in both folders: the other one was never saved."""
    if "transformer_2" not in copy.checkpoint.components:
        copy.does_not_apply("the model has one denoiser")
    other = copy.path("transformer_2")
    copy.delete(other)
    clone(copy.path("transformer"), other)
    return Place("transformer_2", "transformer_2/")


@fault("GM808", layer="lora", severity="warning", kind="adapter")
def kind_of_layer_not_saved(copy: Copy) -> Place:
    """The save left out every layer of one kind that the configuration says was trained."""
    component = adapter_component(copy)

    def drop(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = {name: tensor for name, tensor in tensors.items() if ".to_v." not in name}
        if len(kept) == len(tensors):
            copy.does_not_apply("the adapter has no factors for to_v")
        return kept

    edit(adapter_file(copy), drop)
    return Place(component, f"{ADAPTER}:target_modules")


@fault(
    "GM808",
    layer="lora",
    kind="adapter",
    seen_in="https://github.com/huggingface/diffusers/issues/9810",
)
def layers_trained_whole_not_saved(copy: Copy) -> Place:
    """The configuration says that the last layer was trained whole, and the file holds factors alone."""
    component = adapter_component(copy)
    stored = adapter_config(copy) | {f"{component}.modules_to_save": ["proj_out"]}
    edit_metadata(adapter_file(copy), **{METADATA: json.dumps(stored)})
    return Place(component, f"{ADAPTER}:modules_to_save")


@fault(
    "GM809",
    layer="ema",
    kind="adapter",
    seen_in="https://github.com/ostris/ai-toolkit/issues/1034",
)
def average_of_the_factors_ran_away(copy: Copy) -> Place:
    """The average of the factors was moved the wrong way: they grew a thousandfold, and the loss looked well."""
    component = adapter_component(copy)
    edit(adapter_file(copy), lambda tensors: {n: t * 1e3 for n, t in tensors.items()})
    return Place(component)
