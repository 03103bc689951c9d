"""Faults of a LoRA, injected into a folder as diffusers saves it (two layers at least, alpha in the header)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.faults.editing import ADAPTER, edit, edit_metadata
from pytest_genmodel.faults.registry import fault

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

_METADATA = "lora_adapter_metadata"
_ALPHA = f"{ADAPTER}:lora_alpha"


@fault(
    "GM803",
    location=_ALPHA,
    severity="warning",
    subject="adapter",
    seen_in="https://github.com/huggingface/diffusers/issues/6087",
)
def alpha_lost(folder: Path) -> None:
    """The factors were saved and the alpha was not."""
    edit_metadata(folder / ADAPTER, **{_METADATA: None})


@fault("GM803", location=_ALPHA, severity="warning", subject="adapter")
def alpha_under_another_name(folder: Path) -> None:
    """The alpha stands in the header under a key that diffusers does not look at, as finetrainers writes it."""
    edit_metadata(
        folder / ADAPTER, **{_METADATA: None, "lora_config": json.dumps({"r": 4, "lora_alpha": 64})}
    )


@fault(
    "GM804",
    location=_ALPHA,
    severity="warning",
    subject="adapter",
    seen_in="https://github.com/huggingface/diffusers/pull/14409",
)
def mixed_ranks_without_alpha(folder: Path) -> None:
    """The first layer has another rank than all others, and no alpha is stored."""

    def cut(tensors: Tensors) -> Tensors:
        first = sorted(tensors)[0].rsplit(".lora_", 1)[0]
        down, up = f"{first}.lora_A.weight", f"{first}.lora_B.weight"
        return tensors | {down: tensors[down][:1], up: tensors[up][:, :1]}

    edit(folder / ADAPTER, cut)
    edit_metadata(folder / ADAPTER, **{_METADATA: None})


@fault("GM806", subject="adapter")
def two_alphas(folder: Path) -> None:
    """An alpha stands beside each pair of factors, and the header says another."""
    import torch

    edit(
        folder / ADAPTER,
        lambda tensors: (
            tensors
            | {
                f"{name.removesuffix('.lora_A.weight')}.alpha": torch.tensor(64.0)
                for name in tensors
                if name.endswith(".lora_A.weight")
            }
        ),
    )


@fault("GM802", severity="warning", subject="adapter")
def fresh_adapter(folder: Path) -> None:
    """A new adapter was saved in the place of the trained one: every lora_B is zero."""
    edit(folder / ADAPTER, lambda tensors: {n: t * 0 if "lora_B" in n else t for n, t in tensors.items()})


@fault(
    "GM805",
    severity="warning",
    subject="adapter",
    seen_in="https://github.com/huggingface/diffusers/issues/5016",
)
def layers_without_gradient(folder: Path) -> None:
    """The layers of one kind were frozen: their lora_B are still zero."""
    edit(
        folder / ADAPTER,
        lambda tensors: {n: t * 0 if "to_q.lora_B" in n else t for n, t in tensors.items()},
    )


@fault(
    "GM807",
    location="transformer_blocks.1.attn1.to_q",
    severity="warning",
    subject="adapter",
    seen_in="https://github.com/huggingface/accelerate/pull/4206",
)
def saved_in_part(folder: Path) -> None:
    """Only one process saved its share: a kind of layer has factors in some blocks only."""
    edit(
        folder / ADAPTER,
        lambda tensors: {n: t for n, t in tensors.items() if "transformer_blocks.1.attn1.to_q." not in n},
    )


@fault(
    "GM801",
    "coverage",
    location="transformer_blocks.0.attn1.to_q.lora_B.weight",
    subject="adapter",
)
def half_of_a_pair(folder: Path) -> None:
    """The lora_B of one layer is not in the file, and its lora_A is."""
    edit(
        folder / ADAPTER,
        lambda tensors: {
            n: t for n, t in tensors.items() if not n.endswith("blocks.0.attn1.to_q.lora_B.weight")
        },
    )


@fault("GM304", subject="adapter")
def factor_that_is_no_number(folder: Path) -> None:
    """Training in float16 overflowed, and a factor holds NaN."""

    def poison(tensors: Tensors) -> None:
        tensors[sorted(tensors)[0]].view(-1)[0] = float("nan")

    edit(folder / ADAPTER, poison)
