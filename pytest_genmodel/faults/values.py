"""Faults of values: what is stored is no number, was never filled, or was never trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.faults.editing import (
    ALIAS,
    DENOISER,
    SHARED,
    TEXT_ENCODER,
    TO_Q,
    edit,
    edit_one,
    everywhere,
)
from pytest_genmodel.faults.registry import fault

if TYPE_CHECKING:
    import torch

_FP16 = "https://github.com/zai-org/CogVideo/commit/36f133378869a4e5e5480f1a0df43e1f80c24c3c"
_UMT5 = "https://github.com/huggingface/transformers/pull/43880"


@fault("GM304", location=TO_Q, seen_in="https://github.com/bmaltais/kohya_ss/issues/2541")
def not_a_number(folder: Path) -> None:
    """One value of one tensor became NaN."""

    def poison(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[7] = float("nan")
        return tensor

    edit_one(folder / DENOISER, TO_Q, poison)


@fault("GM304", component="text_encoder", location=SHARED, seen_in=_FP16)
def overflow_of_float16(folder: Path) -> None:
    """A component with values beyond 65504 was stored in float16: they became Inf."""
    edit_one(folder / TEXT_ENCODER, SHARED, lambda tensor: tensor.float() * 1e7)
    edit(folder / TEXT_ENCODER, everywhere(lambda tensor: tensor.half()))


@fault("GM307", location=TO_Q, severity="warning")
def zero_matrix(folder: Path) -> None:
    """A projection of the denoiser is all zero."""
    edit_one(folder / DENOISER, TO_Q, lambda tensor: tensor * 0)


@fault("GM307", component="text_encoder", location=SHARED, seen_in=_UMT5)
def zero_embedding(folder: Path) -> None:
    """The token embedding is all zero, so that every prompt means the same."""
    edit_one(folder / TEXT_ENCODER, SHARED, lambda tensor: tensor * 0)


@fault("GM209", component="text_encoder", location=ALIAS, seen_in=_UMT5)
def zero_embedding_beside_the_real_one(folder: Path) -> None:
    """The tie of the token embedding was lost: the second name holds zeros."""
    edit(folder / TEXT_ENCODER, lambda tensors: tensors | {ALIAS: tensors[SHARED] * 0})


@fault("GM307", seen_in="https://github.com/huggingface/diffusers/issues/11989")
def download_broken_off(folder: Path) -> None:
    """The file has its size, and its last third is zeros: the copy was broken off."""
    file = folder / DENOISER
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size - size // 3)
        stream.write(bytes(size // 3))


@fault("GM308", location=TO_Q, severity="warning")
def constant_matrix(folder: Path) -> None:
    """A projection of the denoiser was filled with one number."""
    edit_one(folder / DENOISER, TO_Q, lambda tensor: tensor * 0 + 0.5)


@fault("GM309", seen_in="https://github.com/huggingface/diffusers/issues/3428")
def built_from_its_configuration(folder: Path) -> None:
    """The denoiser was built with from_config, and its random weights were saved."""
    import torch
    from diffusers import CogVideoXTransformer3DModel

    from pytest_genmodel.pipelines.library import quiet

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CogVideoXTransformer3DModel.load_config(folder / "transformer")
        CogVideoXTransformer3DModel.from_config(config).save_pretrained(folder / "transformer")


@fault("GM309", location=TO_Q, severity="warning", subject="trained")
def layer_never_loaded(folder: Path) -> None:
    """One layer among trained ones still holds the values that torch makes a Linear with."""
    import torch

    def make(tensor: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        bound = float(tensor.shape[1]) ** -0.5
        drawn = torch.rand(tensor.shape, generator=generator) * 2 * bound - bound
        made: torch.Tensor = drawn.to(tensor.dtype)
        return made

    edit_one(folder / DENOISER, TO_Q, make)


@fault("GM312", severity="note", seen_in="https://github.com/huggingface/peft/issues/1388")
def through_bfloat16(folder: Path) -> None:
    """The weights were rounded to bfloat16 on the way, and stored in float32 again."""
    edit(folder / DENOISER, everywhere(lambda tensor: tensor.bfloat16().float()))


@fault(
    "GM313",
    location=TO_Q,
    severity="warning",
    seen_in="https://github.com/huggingface/finetrainers/issues/182",
)
def too_large_for_float16(folder: Path) -> None:
    """A tensor holds a value that bfloat16 can hold and float16 cannot."""

    def enlarge(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.bfloat16()
        tensor.view(-1)[3] = 1e6
        return tensor

    edit_one(folder / DENOISER, TO_Q, enlarge)
