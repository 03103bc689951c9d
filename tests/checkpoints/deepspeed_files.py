"""DeepSpeed checkpoints of any weights, laid out as those in `data/zero` that DeepSpeed itself has written."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

Tensors = Mapping[str, torch.Tensor]
BUFFER = "patch_embed.pos_embedding"
"""The one persistent buffer of the tiny transformer."""
CLASSES = (
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)


@contextmanager
def named_as_deepspeed() -> Iterator[dict[str, type]]:
    """Classes that pickle under DeepSpeed's names, as long as the context lasts."""
    modules: dict[str, ModuleType] = {}
    made = {}
    for path, name in CLASSES:
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            module = ".".join(parts[:end])
            modules.setdefault(module, ModuleType(module))
        made[name] = type(name, (), {"__module__": path})
        setattr(modules[path], name, made[name])
    assert not modules.keys() & sys.modules.keys()
    sys.modules.update(modules)
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]


def write_zero(
    folder: Path,
    weights: Tensors,
    stage: int = 2,
    world: int = 2,
    frozen: tuple[str, ...] = (),
    dtype: torch.dtype = torch.bfloat16,
    tag: str = "global_step7",
) -> Path:
    """Write `weights` as `world` ranks of stage `stage` would; gives the folder with `latest`."""
    (folder / tag).mkdir(parents=True)
    (folder / "latest").write_text(tag)
    (folder / "zero_to_fp32.py").write_text("raise SystemExit('a script in a checkpoint was run')\n")
    trained = {name: t for name, t in weights.items() if name not in frozen and name != BUFFER}
    for rank in range(world):
        save_partition(folder / tag, rank, partition(trained, stage, world, rank))
        if stage == 3 or rank == 0:
            name = (
                f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
                if stage == 3
                else "mp_rank_00_model_states.pt"
            )
            torch.save(model_states(weights, trained, frozen, stage, world, rank, dtype), folder / tag / name)
    return folder


def model_states(
    weights: Tensors,
    trained: Tensors,
    frozen: tuple[str, ...],
    stage: int,
    world: int,
    rank: int,
    dtype: torch.dtype,
) -> dict[str, Any]:
    module = OrderedDict()
    for name, tensor in weights.items():
        empty = stage == 3 and name != BUFFER
        module[name] = (
            torch.empty(0, dtype=dtype) if empty else tensor if name == BUFFER else tensor.to(dtype)
        )
    pieces = {
        name: piece(weights[name].to(dtype), world, rank) if stage == 3 else weights[name].to(dtype)
        for name in frozen
    }
    return {
        "module": module,
        "buffer_names": [BUFFER] if BUFFER in weights else [],
        "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in trained.items())],
        "frozen_param_shapes": OrderedDict((name, weights[name].shape) for name in frozen),
        "frozen_param_fragments": OrderedDict(pieces),
        "shared_params": {},
        "lr_scheduler": None,
        "dp_world_size": world,
        "ds_config": {"train_batch_size": 1},
        "ds_version": "0.19.8",
    }


def piece(tensor: torch.Tensor, world: int, rank: int) -> torch.Tensor:
    """A rank's piece of one tensor: of one size on every rank, the last filled up with a number that is not used."""
    size = ceil(tensor.numel() / world)
    padded = torch.full((size * world,), 7.5, dtype=tensor.dtype)
    padded[: tensor.numel()] = tensor.reshape(-1)
    return padded[rank * size : (rank + 1) * size].clone()


def partition(trained: Tensors, stage: int, world: int, rank: int) -> dict[str, Any]:
    """What a rank knows of the master."""
    if stage == 3:
        flat = torch.cat([piece(tensor.float(), world, rank) for tensor in trained.values()])
        return {"zero_stage": 3, "partition_count": world, "fp32_flat_groups": [flat]}
    whole = torch.cat([tensor.float().reshape(-1) for tensor in trained.values()])
    size = ceil(whole.numel() / (2 * world)) * 2
    return {
        "zero_stage": stage,
        "partition_count": [world],
        "single_partition_of_fp32_groups": [whole[rank * size : (rank + 1) * size].clone()],
        "param_alignment_paddings": [[0] * len(trained)],
    }


def save_partition(folder: Path, rank: int, state: dict[str, Any]) -> None:
    with named_as_deepspeed() as classes:
        address = classes["fragment_address"]()
        address.start = 0
        state = state | {"loss_scaler": classes["LossScaler"](), "param_slice_mappings": [{"a": address}]}
        file = folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": state, "ds_config": {}, "ds_version": "0.19.8"}, file)
