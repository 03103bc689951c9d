"""DeepSpeed's own ZeRO checkpoints of the small module, on the CPU.

    python -m tools.write_samples.zero FOLDER

deepspeed is no dependency of this project: run this in an environment that has it (DS_BUILD_OPS=0 suffices), from
the repository's root. Each process is one rank; `expected.safetensors` beside each checkpoint
holds what the ranks held, asked of the live engine.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tools.write_samples.small_model import groups, small


@dataclass(frozen=True)
class Sample:
    """One checkpoint: `dtype` is that of training (the master is float32), `world` the number of ranks."""

    name: str
    stage: int
    world: int
    dtype: str
    two_groups: bool = False
    options: dict[str, Any] = field(default_factory=dict)


SAMPLES = (
    Sample("zero1-bf16-2", 1, 2, "bf16"),
    Sample("zero2-bf16-2", 2, 2, "bf16", two_groups=True),
    Sample("zero2-fp32-1", 2, 1, "fp32"),
    Sample("zero3-bf16-2", 3, 2, "bf16"),
    Sample(
        "zero3-fp32-1", 3, 1, "fp32", two_groups=True, options={"zero_optimization": {"sub_group_size": 50}}
    ),
    Sample("zero1-bf16-optimizer-2", 1, 2, "bf16", options={"data_types": {"grad_accum_dtype": "fp32"}}),
)


def settings(sample: Sample) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    chosen: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": sample.stage, "stage3_param_persistence_threshold": 0},
    }
    if sample.dtype != "fp32":
        chosen[sample.dtype] = {"enabled": True}
    for name, values in sample.options.items():
        chosen[name] = chosen.get(name, {}) | values
    return chosen


def rank(number: int, sample: Sample, folder: str, port: int) -> None:
    """What one rank does: one step, and a save."""
    os.environ |= {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(sample.world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
    }
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo")
    model = small()
    trained = groups(model) if sample.two_groups else [p for p in model.parameters() if p.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(trained, lr=1e-2), config=settings(sample)
    )
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[sample.dtype]
    engine.backward(engine(torch.ones(1, 5, dtype=kind)))
    engine.step()
    engine.save_checkpoint(folder)
    weights = live_weights(engine)
    if number == 0:
        save_file(weights, Path(folder, "expected.safetensors"))
    torch.distributed.barrier()
    if number == 0:
        time.sleep(1)  # it keeps the ranks' meeting point: the others must be gone first
    os._exit(0)  # gloo's threads abort a process that ends as usual


def live_weights(engine: Any) -> dict[str, torch.Tensor]:
    """What the ranks hold together: the master where there is one, every frozen parameter and buffer as it is."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    found = {}
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            found[name] = safe_get_full_fp32_param(parameter).detach().clone()
        else:
            with deepspeed.zero.GatheredParameters([parameter]):
                found[name] = parameter.detach().clone()
    return found | {name: buffer.clone() for name, buffer in engine.module.named_buffers()}


def main() -> None:
    """Write every sample."""
    target = Path(sys.argv[1])
    for sample in SAMPLES:
        folder = target / sample.name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torch.multiprocessing.spawn(rank, (sample, str(folder), port), nprocs=sample.world)
        for script in folder.glob("*.py"):
            script.write_text('raise SystemExit("a script in a checkpoint was run")\n')


if __name__ == "__main__":
    main()
