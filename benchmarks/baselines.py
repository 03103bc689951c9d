"""Baselines: how fast weights are sketched beside reading and hashing, how far an estimate is off, how large it is.

    speed   one generated file of bfloat16 weights (CogVideoX-5B's layer shapes), warm: reading its bytes, sha256 of
            each tensor (what every comparison pays), figures and sketch in one pass (what a baseline adds)
    error   estimated against exact drift, over many seeds, for changes of several kinds
    size    bytes of a baseline of real models' tensors (shapes from the installed classes, no weights)

Medians. Everything in two threads, as a run does it. On a busy machine read the CPU seconds.

    python benchmarks/baselines.py [--gigabytes 1] [--runs 3] [--seeds 40]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pytest_genmodel.baselines.fingerprint import Fingerprint, to_entry
from pytest_genmodel.baselines.sketch import SIZE, Facts, distance, error, facts, sketch
from pytest_genmodel.baselines.store import Store
from pytest_genmodel.checkpoints.weights import SafetensorsWeights
from pytest_genmodel.tensors.moments import ValueStatistics

SHAPES = ((3072, 3072),) * 4 + ((12288, 3072), (3072, 12288), (18432, 512), (18432, 512))
ROWS, COLUMNS = 1024, 3072


def speed(folder: Path, gigabytes: float, runs: int) -> None:
    tensors: dict[str, torch.Tensor] = {}
    size = 0
    while size < gigabytes * 1e9:
        for place, shape in enumerate(SHAPES):
            tensor = torch.randn(shape).mul_(0.02).bfloat16()
            tensors[f"blocks.{len(tensors)}.{place}.weight"] = tensor
            size += tensor.numel() * 2
    file = folder / "weights.safetensors"
    save_file(tensors, file)
    tensors.clear()

    def read() -> None:
        buffer = bytearray(1 << 20)
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass

    ways: dict[str, Callable[[], Any]] = {
        "read": read,
        "sha256 of each tensor": lambda: SafetensorsWeights((file,)).content_digest(),
        "figures and sketch": lambda: facts(SafetensorsWeights((file,))),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs + 1):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            way()
            seconds[name].append(time.perf_counter() - start)
            used[name].append(time.process_time() - cpu)
    print(f"speed: {size / 1e9:.2f} GB of bfloat16, {size / 2e9:.2f}e9 values")
    hashed = statistics.median(used["sha256 of each tensor"][1:])
    for name in ways:
        wall, cpu = statistics.median(seconds[name][1:]), statistics.median(used[name][1:])
        values = size / 2
        print(
            f"  {name:<22} {wall:6.2f} s ({size / wall / 1e9:.2f} GB/s), {cpu:6.2f} CPU s: "
            f"{cpu / values * 1e9:.2f} ns a value, {cpu / hashed:.2f} x hashing; "
            f"14e9 values: {cpu * 14e9 / values:.0f} CPU s"
        )


def _at(places: torch.Tensor, value: float = 1e-3) -> torch.Tensor:
    delta = torch.zeros(ROWS * COLUMNS)
    delta[places] = value
    return delta.view(ROWS, COLUMNS)


def changes(weight: torch.Tensor, g: torch.Generator) -> dict[str, torch.Tensor]:
    size = ROWS * COLUMNS
    low = torch.randn(ROWS, 8, generator=g) @ torch.randn(8, COLUMNS, generator=g)
    column = int(torch.randint(COLUMNS, (), generator=g))
    return {
        "every value (a fine-tune)": 1e-4 * torch.randn(ROWS, COLUMNS, generator=g),
        "rank 8 (a LoRA)": 1e-5 * low,
        "one value in 10,000": _at(torch.randint(size, (size // 10_000,), generator=g)),
        "one column": _at(torch.arange(ROWS) * COLUMNS + column),
        "ten values": _at(torch.randint(size, (10,), generator=g)),
        "rounded to bfloat16": weight.bfloat16().float() - weight,
    }


def errors(seeds: int) -> None:
    low, high = error()
    print(
        f"error: estimate / exact over {seeds} seeds, {ROWS} x {COLUMNS}; 95 % within {1 - low:.3f} to {1 + high:.3f}"
    )
    ratios: dict[str, list[float]] = {}
    for seed in range(seeds):
        g = torch.Generator().manual_seed(seed)
        weight = 0.02 * torch.randn(ROWS, COLUMNS, generator=g)
        row = sketch(weight)
        for name, delta in changes(weight, g).items():
            moved = weight + delta
            exact = float((moved.double() - weight.double()).norm())
            ratios.setdefault(name, []).append(distance(sketch(moved), row) / exact)
    for name, found in ratios.items():
        outside = sum(not 1 - low <= ratio <= 1 + high for ratio in found)
        print(
            f"  {name:<26} mean {statistics.mean(found):.3f}  sd {statistics.stdev(found):.3f}  "
            f"{min(found):.3f} to {max(found):.3f}  outside the bound: {outside}"
        )


def sizes() -> None:
    from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel

    models: dict[str, Callable[[], Any]] = {
        "CogVideoX-5B transformer": lambda: CogVideoXTransformer3DModel(
            num_attention_heads=48, num_layers=42
        ),
        "Wan 14B I2V transformer": lambda: WanTransformer3DModel(
            in_channels=36, image_dim=1280, added_kv_proj_dim=5120
        ),
    }
    print(f"size: {SIZE} numbers a tensor, digests, figures")
    figures = (3, -1.1 / 3, 2.2 / 3, 0.1 / 3, 1e5 / 3)
    for name, make in models.items():
        with torch.device("meta"):
            tensors = {key: tuple(value.shape) for key, value in make().state_dict().items()}
        for dtype, casts in (("BF16", {}), ("F32", {"BF16": "2" * 64, "F16": "3" * 64})):
            prints = {
                key: Fingerprint(
                    dtype,
                    shape,
                    "0" * 64,
                    "1" * 64 if casts else "0" * 64,
                    casts,
                    Facts(ValueStatistics(prod(shape), 0, 0, 0, *figures), torch.randn(SIZE)),
                )
                for key, shape in tensors.items()
            }
            store = Store(Path("none"), {"reference/component/transformer": to_entry(prints, {})})
            parameters = sum(map(prod, tensors.values()))
            print(
                f"  {name} ({dtype}): {parameters / 1e9:.1f}e9 values in {len(tensors)} tensors, "
                f"{len(store.to_bytes()) / 2**20:.2f} MiB"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="Figures of baselines.")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=None, help="where the generated weights go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        speed(Path(folder), arguments.gigabytes, arguments.runs)
    errors(arguments.seeds)
    sizes()


if __name__ == "__main__":
    main()
