"""Checkpoints that torch.distributed.checkpoint writes with two ranks, on the CPU.

    python -m tools.write_samples.dcp FOLDER

`rows` are shards along the first dimension, as FSDP makes them; `grid` splits both dimensions of every matrix.
`expected.safetensors` beside each holds the whole tensors.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from tools.write_samples.small_model import small

WORLD = {"rows": 2, "grid": 4}


def state_of(layout: str, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A trainer's nested dictionary, with the tensors spread over the ranks."""
    shape = (2,) if layout == "rows" else (2, 2)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("first", "second")[: len(shape)])

    def spread(tensor: torch.Tensor) -> torch.Tensor | DTensor:
        if layout == "grid":
            return distribute_tensor(tensor, mesh, [Shard(0), Shard(1)]) if tensor.ndim > 1 else tensor
        return distribute_tensor(tensor, mesh, [Shard(0)])

    model = {name: spread(tensor) for name, tensor in weights.items()}
    moments = {
        name: {"exp_avg": spread(torch.zeros_like(tensor))} for name, tensor in list(weights.items())[:2]
    }
    return {"model": model, "optimizer": {"state": moments}, "train_state": {"step": 7}}


def rank(number: int, layout: str, port: int) -> None:
    """What one rank does."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=number, world_size=WORLD[layout])
    weights = {name: tensor.clone() for name, tensor in small().state_dict().items()}
    if layout == "grid":
        weights = {name: weights[name] for name in ("embed.weight", "table", "scale")}
    dcp.save(state_of(layout, weights), checkpoint_id=layout)
    if number == 0:
        save_file(weights, Path(layout, "expected.safetensors"))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Write both, by relative paths: the paths of the machine would stand in the files."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    root = Path.cwd()
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = str(root)
    os.chdir(target)
    for layout, world in WORLD.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torch.multiprocessing.spawn(rank, (layout, port), nprocs=world)


if __name__ == "__main__":
    main()
