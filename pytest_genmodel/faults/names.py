"""Faults of names and shapes: what is stored does not reach the model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped
from pytest_genmodel.faults.editing import (
    ALIAS,
    DENOISER,
    SHARED,
    TEXT_ENCODER,
    TO_Q,
    VAE,
    edit,
    edit_one,
)
from pytest_genmodel.faults.registry import fault

_FF = "transformer_blocks.0.ff.net.2.weight"


@fault("GM203", "coverage", location=TO_Q, seen_in="https://github.com/zai-org/CogVideo/issues/374")
def lora_still_attached(folder: Path) -> None:
    """The denoiser was saved while its LoRA was attached: the founding incident."""
    wrapped = adapter_wrapped(folder, folder.with_name(f"{folder.name}-wrapped"))
    shutil.rmtree(folder / "transformer")
    shutil.move(wrapped / "transformer", folder / "transformer")
    shutil.rmtree(wrapped)


@fault(
    "GM205",
    "coverage",
    seen_in="https://github.com/kohya-ss/musubi-tuner/commit/e1157b3c167d6d2c1fdaa4b6468d216ddcd9f8ac",
)
def compiled_blocks(folder: Path) -> None:
    """Each block was compiled by itself: `_orig_mod.` stands in the middle of the names."""
    edit(
        folder / DENOISER,
        lambda tensors: {
            re.sub(r"^(transformer_blocks\.\d+\.)", r"\1_orig_mod.", name): tensor
            for name, tensor in tensors.items()
        },
    )


@fault("GM201", "coverage", seen_in="https://github.com/huggingface/transformers/issues/31034")
def half_of_the_tensors(folder: Path) -> None:
    """The second save of a run wrote half of the tensors."""
    edit(
        folder / DENOISER,
        lambda tensors: {name: tensors[name] for name in sorted(tensors)[: len(tensors) // 2]},
    )


@fault(
    "GM201",
    "coverage",
    component="text_encoder",
    location=SHARED,
    seen_in="https://github.com/safetensors/safetensors/issues/520",
)
def embedding_lost(folder: Path) -> None:
    """The only stored name of the tied token embedding was removed as a duplicate."""
    edit(folder / TEXT_ENCODER, lambda tensors: {n: t for n, t in tensors.items() if n != SHARED})


@fault(
    "GM209",
    component="text_encoder",
    location=ALIAS,
    seen_in="https://github.com/huggingface/transformers/issues/48154",
)
def tie_broken(folder: Path) -> None:
    """The two names of the token embedding hold different values."""
    edit(folder / TEXT_ENCODER, lambda tensors: tensors | {ALIAS: tensors[SHARED] * 0.01})


@fault("GM210", "coverage", location=_FF, seen_in="https://github.com/deepspeedai/DeepSpeed/issues/7900")
def placeholder_of_zero3(folder: Path) -> None:
    """A parameter was saved without being gathered under ZeRO stage 3: its shape is [0]."""
    edit_one(folder / DENOISER, _FF, lambda tensor: tensor.flatten()[:0])


@fault("GM211", "coverage", seen_in="https://github.com/zai-org/CogVideo/issues/633")
def whole_engine_in_one_file(folder: Path) -> None:
    """The file of the denoiser holds the VAE too."""
    from safetensors.torch import load_file

    others = {f"first_stage_model.{name}": tensor for name, tensor in load_file(folder / VAE).items()}
    edit(folder / DENOISER, lambda tensors: tensors | others)


@fault("GM212", seen_in="https://github.com/tdrussell/diffusion-pipe/issues/350")
def scaled_float8(folder: Path) -> None:
    """The matrices were divided by scales to fit into float8, and the scales lie beside them."""
    import torch

    def quantise(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        for name, tensor in tensors.items():
            if tensor.dim() != 2:
                found[name] = tensor
                continue
            scale = tensor.float().abs().max() / 448.0
            found[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            found[f"{name.removesuffix('.weight')}.scale_weight"] = scale.reshape(1)
        return found

    edit(folder / DENOISER, quantise)
