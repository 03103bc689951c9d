"""Faults that show against the reference: nothing moved, too much moved, or the right values lie at wrong places."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.faults.editing import DENOISER, TO_K, TO_Q, VAE, edit, edit_one, everywhere, noise
from pytest_genmodel.faults.registry import fault

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

_CONV = "decoder.conv_in.conv.weight"


def _train(tensors: Tensors, size: float = 0.005) -> Tensors:
    """Move every tensor a little, as a fine-tune does."""
    return {name: t + noise(t, size, seed) for seed, (name, t) in enumerate(tensors.items())}


@fault(
    "GM302",
    "same_weights",
    location="transformer/",
    expect="finetuned",
    seen_in="https://github.com/huggingface/diffusers/issues/9332",
)
def nothing_trained(folder: Path) -> None:
    """The result of the training is the model that went in."""


@fault("GM301", "same_weights", component="vae", location=_CONV, expect="finetuned")
def frozen_part_changed(folder: Path) -> None:
    """The VAE was trained along with the denoiser."""
    edit(folder / DENOISER, _train)
    edit_one(folder / VAE, _CONV, lambda tensor: tensor + noise(tensor, 0.01))


@fault("GM305", "same_weights", component="vae", expect="finetuned")
def saved_in_bfloat16(folder: Path) -> None:
    """The VAE was saved in bfloat16."""
    import torch

    edit(folder / DENOISER, _train)
    edit(folder / VAE, everywhere(lambda tensor: tensor.to(torch.bfloat16)))


@fault("GM207", "same_weights", location=TO_Q, expect="finetuned")
def tensor_left_out(folder: Path) -> None:
    """The saver left a tensor out."""
    edit(folder / DENOISER, lambda tensors: {n: t for n, t in _train(tensors).items() if n != TO_Q})


@fault("GM314", "same_weights", location=TO_K, expect="finetuned")
def two_layers_swapped(folder: Path) -> None:
    """The converter swapped to_q and to_k, and the model was trained on."""
    edit(
        folder / DENOISER,
        lambda tensors: _train(tensors | {TO_Q: tensors[TO_K], TO_K: tensors[TO_Q]}),
    )


@fault("GM314", "same_weights", expect="finetuned")
def layers_off_by_one(folder: Path) -> None:
    """The blocks were counted from one: block 1 holds what block 0 should, and no other block is left for it."""

    def move(tensors: Tensors) -> Tensors:
        return tensors | {
            name: tensors[re.sub(r"^transformer_blocks\.1\.", "transformer_blocks.0.", name)]
            for name in tensors
            if name.startswith("transformer_blocks.1.")
        }

    edit(folder / DENOISER, lambda tensors: _train(move(tensors)))


@fault(
    "GM315",
    "same_weights",
    expect="identical",
    seen_in="https://github.com/deepspeedai/DeepSpeed/issues/1165",
)
def cut_at_a_wrong_offset(folder: Path) -> None:
    """The tensors were cut out of one flat buffer, two elements too late from the start on."""
    import torch

    def cut(tensors: Tensors) -> Tensors:
        flat = torch.cat([tensor.flatten() for tensor in tensors.values()] + [torch.zeros(2)])
        found, place = {}, 2
        for name, tensor in tensors.items():
            found[name] = flat[place : place + tensor.numel()].reshape(tensor.shape).to(tensor.dtype)
            place += tensor.numel()
        return found

    edit(folder / DENOISER, cut)


@fault(
    "GM316",
    "same_weights",
    component="vae",
    expect="finetuned",
    seen_in="https://github.com/huggingface/diffusers/issues/1009",
)
def weight_decay_on_a_frozen_part(folder: Path) -> None:
    """AdamW had the frozen VAE among its parameters: it got no gradient, and weight decay shrank it."""
    edit(folder / DENOISER, _train)
    edit(folder / VAE, everywhere(lambda tensor: tensor * 0.97))


@fault(
    "GM317",
    "same_weights",
    location=TO_Q,
    severity="warning",
    expect="finetuned",
    seen_in="https://github.com/zai-org/CogVideo/issues/374",
)
def layer_made_anew(folder: Path) -> None:
    """One layer was in no file when training began, and kept random values; all others moved a little."""

    def remake(tensors: Tensors) -> Tensors:
        tensors = _train(tensors)
        return tensors | {TO_Q: noise(tensors[TO_Q], 1.0, seed=99)}

    edit(folder / DENOISER, remake)
