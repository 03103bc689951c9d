"""Two checkpoints compared, beside what a user would do instead; whole processes, one run, ratios.

A pair of generated checkpoints with CogVideoX-5B's tensor shapes (bfloat16, 3 shards; 8 of the 42 blocks make 2.1 GB
a side) is compared in four ways, each in a process of its own and in turn: GNU `cmp` shard by shard, `load_file` and
`torch.equal`, `load_file` and `torch.testing.assert_close`, and `compare_components` of this package. Once the two
are identical, once every tensor differs. Medians, and the peak of resident memory.

    python benchmarks/checkpoints.py [--folder DIR] [--blocks 8] [--runs 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HIDDEN, TIME, FEED = 3072, 512, 12288
SHARDS = 3


def block_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        shapes[f"attn1.{name}.weight"], shapes[f"attn1.{name}.bias"] = (HIDDEN, HIDDEN), (HIDDEN,)
    for name in ("norm_q", "norm_k"):
        shapes[f"attn1.{name}.weight"], shapes[f"attn1.{name}.bias"] = (64,), (64,)
    for name in ("norm1", "norm2"):
        shapes[f"{name}.linear.weight"], shapes[f"{name}.linear.bias"] = (6 * HIDDEN, TIME), (6 * HIDDEN,)
        shapes[f"{name}.norm.weight"], shapes[f"{name}.norm.bias"] = (HIDDEN,), (HIDDEN,)
    shapes["ff.net.0.proj.weight"], shapes["ff.net.0.proj.bias"] = (FEED, HIDDEN), (FEED,)
    shapes["ff.net.2.weight"], shapes["ff.net.2.bias"] = (HIDDEN, FEED), (HIDDEN,)
    return shapes


def write_checkpoint(folder: Path, blocks: int, change: bool) -> None:
    """Write a transformer folder in shards; with `change`, every tensor has one bit flipped in each 1,000th value."""
    import json

    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    pool = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).mul(0.02).to(torch.bfloat16)
    names = [f"transformer_blocks.{b}.{name}" for b in range(blocks) for name in block_shapes()]
    weight_map = {}
    for shard in range(SHARDS):
        tensors = {}
        for name in names[shard::SHARDS]:
            shape = block_shapes()[name.split(".", 2)[2]]
            size = torch.Size(shape).numel()
            values = pool.roll(hash_of(name)).repeat(-(-size // len(pool)))[:size].clone()
            if change:
                values.view(torch.int16)[::1000] ^= 1
            tensors[name] = values.reshape(shape)
            weight_map[name] = f"diffusion_pytorch_model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        save_file(tensors, folder / weight_map[name])
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"_class_name": "CogVideoXTransformer3DModel"}')


def hash_of(name: str) -> int:
    return sum(map(ord, name)) * 7919


def with_cmp(a: Path, b: Path) -> None:
    for shard in sorted(a.glob("*.safetensors")):
        subprocess.run(["cmp", "--quiet", shard, b / shard.name], check=False)


def with_torch_equal(a: Path, b: Path) -> None:
    import torch
    from safetensors.torch import load_file

    for shard in sorted(a.glob("*.safetensors")):
        left, right = load_file(shard), load_file(b / shard.name)
        print(sum(not torch.equal(left[name], right[name]) for name in left))


def with_assert_close(a: Path, b: Path) -> None:
    import torch
    from safetensors.torch import load_file

    for shard in sorted(a.glob("*.safetensors")):
        left, right = load_file(shard), load_file(b / shard.name)
        for name in left:
            try:
                torch.testing.assert_close(left[name], right[name])
            except AssertionError as error:
                print(name, error)


def with_ours(a: Path, b: Path) -> None:
    from pytest_genmodel.checkpoints.component import Component
    from pytest_genmodel.checkpoints.diff import compare_components

    one, other = (
        Component("transformer", path, "diffusers", "CogVideoXTransformer3DModel") for path in (a, b)
    )
    difference = compare_components(one, other)
    print(difference.compared, len(difference.changed), "torch imported:", "torch" in sys.modules)


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "cmp": with_cmp,
    "load_file + torch.equal": with_torch_equal,
    "load_file + assert_close": with_assert_close,
    "ours": with_ours,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to write the pair (default: a temporary folder)")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--child", nargs=3, metavar=("WAY", "A", "B"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        way, a, b = given.child
        WAYS[way](Path(a), Path(b))
        print(peak_kilobytes())
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        for part, change in (("a", False), ("same", False), ("changed", True)):
            write_checkpoint(folder / part, given.blocks, change)
        size = sum(path.stat().st_size for path in (folder / "a").iterdir())
        print(f"{size / 1e9:.2f} GB a side, {given.runs} runs each\n")
        print(
            "| case | way | seconds | of cmp | of naive | peak MiB |\n| --- | --- | ---: | ---: | ---: | ---: |"
        )
        for part in ("same", "changed"):
            table(part, folder / "a", folder / part, given.runs)


def peak_kilobytes() -> int:
    """The peak of resident memory of this process; that of `cmp` itself is not seen."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def table(case: str, a: Path, b: Path, runs: int) -> None:
    measured: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with_cmp(a, b)  # warms the page cache
    for _ in range(runs):
        for way in WAYS:
            measured[way].append(measure(way, a, b))
    medians = {way: statistics.median(seconds for seconds, _ in values) for way, values in measured.items()}
    for way, values in measured.items():
        memory = max(peak for _, peak in values)
        of_cmp, of_naive = medians[way] / medians["cmp"], medians[way] / medians["load_file + assert_close"]
        print(f"| {case} | {way} | {medians[way]:.2f} | {of_cmp:.2f} | {of_naive:.3f} | {memory:.0f} |")


def measure(way: str, a: Path, b: Path) -> tuple[float, float]:
    """Run one way in a process of its own; give wall seconds and peak resident MiB."""
    start = time.perf_counter()
    # The child reports its own peak: before exec, a forked child counts its parent's memory as its own.
    command = [sys.executable, __file__, "--child", way, str(a), str(b)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - start, float(done.stdout.splitlines()[-1]) / 1024


if __name__ == "__main__":
    main()
