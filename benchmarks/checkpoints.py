"""Comparing two checkpoints: seconds, memory and ratios, side by side in one run.

Generated checkpoints with CogVideoX-5B's tensor shapes (bfloat16, 3 shards; 8 of the 42 blocks make 2.1 GB a side)
are compared in several ways, each in a process of its own and in turn: GNU `cmp` shard by shard, `load_file` and
`torch.equal`, `load_file` and `torch.testing.assert_close`, and `compare_components` of this package. The pairs:

    identical     the same tensors in the same shards
    changed       every tensor differs, one bit in each 1,000th value
    tuned         one tensor in thirteen differs (13 % of the parameters)
    fp32          the same values stored as float32: a cast that lost nothing
    resharded     the same tensors in 5 shards and another order
    cold          identical, after both sides were dropped from the page cache
    statistics    one side alone: NaN, Inf, zeros, extremes, mean, deviation of every tensor
    digest        one side alone: the sha256 that tells it from every other set of weights

Medians, and the peak of resident memory.

    python benchmarks/checkpoints.py [--folder DIR] [--blocks 8] [--runs 5] [--only CASE ...]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

HIDDEN, TIME, FEED = 3072, 512, 12288
NAIVE = "load_file + assert_close"


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


@dataclass(frozen=True)
class Layout:
    """How one generated checkpoint is stored, and which of its tensors have flipped bits."""

    shards: int = 3
    dtype: str = "bfloat16"
    reverse: bool = False
    changed: int = 0
    """Every so many tensors differ; 0 for none."""


def write_checkpoint(folder: Path, blocks: int, layout: Layout) -> None:
    """Write a transformer folder; the values are those of bfloat16, whatever they are stored as."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    pool = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).mul(0.02).to(torch.bfloat16)
    names = [f"transformer_blocks.{b}.{name}" for b in range(blocks) for name in block_shapes()]
    changed = set(names[:: layout.changed]) if layout.changed else set()
    ordered = names[::-1] if layout.reverse else names
    weight_map = {}
    for shard in range(layout.shards):
        tensors = {}
        for name in ordered[shard :: layout.shards]:
            shape = block_shapes()[name.split(".", 2)[2]]
            size = torch.Size(shape).numel()
            values = pool.roll(hash_of(name)).repeat(-(-size // len(pool)))[:size].clone()
            if name in changed:
                values.view(torch.int16)[::1000] ^= 1
            tensors[name] = values.reshape(shape).to(getattr(torch, layout.dtype))
            weight_map[name] = f"diffusion_pytorch_model-{shard + 1:05}-of-{layout.shards:05}.safetensors"
        save_file(tensors, folder / weight_map[name])
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"_class_name": "CogVideoXTransformer3DModel"}')
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def hash_of(name: str) -> int:
    return sum(map(ord, name)) * 7919


def with_cmp(a: Path, b: Path) -> None:
    for shard in sorted(a.glob("*.safetensors")):
        subprocess.run(["cmp", "--quiet", shard, b / shard.name], check=False)


def with_torch_equal(a: Path, b: Path) -> None:
    import torch

    left, right = load(a), load(b)
    print(sum(not torch.equal(left[name], right[name]) for name in left))


def with_assert_close(a: Path, b: Path) -> None:
    import torch

    left, right = load(a), load(b)
    for name in left:
        try:
            torch.testing.assert_close(left[name], right[name], check_dtype=False)
        except AssertionError as error:
            print(name, error)


def load(folder: Path) -> dict:  # type: ignore[type-arg]
    from safetensors.torch import load_file

    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def component(folder: Path) -> object:
    from pytest_genmodel.checkpoints.component import Component

    return Component("transformer", folder, "diffusers", "CogVideoXTransformer3DModel")


def with_ours(a: Path, b: Path) -> None:
    from pytest_genmodel.checkpoints.diff import compare_components

    difference = compare_components(component(a), component(b))  # type: ignore[arg-type]
    print(difference.compared, len(difference.changed), "torch imported:", "torch" in sys.modules)
    for name in difference.worst_first()[:3]:
        print(name, difference.changed[name])


def naive_statistics(a: Path, _: Path) -> None:
    import torch
    from safetensors.torch import load_file

    for path in a.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            values = tensor.float()
            finite = values[torch.isfinite(values)]
            print(
                name,
                *(int(mask.sum()) for mask in (values.isnan(), values.isinf(), values == 0)),
                *(float(figure) for figure in (finite.min(), finite.max(), finite.abs().max())),
                *(float(figure) for figure in (finite.mean(), finite.std())),
            )


def our_statistics(a: Path, _: Path) -> None:
    from pytest_genmodel.checkpoints.statistics import statistics as of_weights

    for name, figures in of_weights(component(a).weights).items():  # type: ignore[attr-defined]
        print(name, figures)


def naive_digest(a: Path, _: Path) -> None:
    import hashlib

    import torch

    for name, tensor in sorted(load(a).items()):
        print(name, hashlib.sha256(tensor.view(-1).view(torch.uint8).numpy()).hexdigest())


def our_digest(a: Path, _: Path) -> None:
    print(component(a).weights.content_digest())  # type: ignore[attr-defined]


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "cmp": with_cmp,
    "load_file + torch.equal": with_torch_equal,
    NAIVE: with_assert_close,
    "ours": with_ours,
    "load_file + torch statistics": naive_statistics,
    "our statistics": our_statistics,
    "load_file + sha256": naive_digest,
    "our digest": our_digest,
}
COMPARED = tuple(WAYS)[:4]


@dataclass(frozen=True)
class Case:
    """A pair of layouts (the first is always the plain one) and the ways that apply to it."""

    other: Layout = field(default_factory=Layout)
    ways: tuple[str, ...] = COMPARED
    cold: bool = False


CASES = {
    "identical": Case(),
    "changed": Case(Layout(changed=1)),
    "tuned": Case(Layout(changed=13)),
    "fp32": Case(Layout(dtype="float32"), (NAIVE, "ours")),
    "resharded": Case(Layout(shards=5, reverse=True), COMPARED[1:]),
    "cold": Case(cold=True),
    "statistics": Case(ways=("load_file + torch statistics", "our statistics")),
    "digest": Case(ways=("load_file + sha256", "our digest")),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to write the pair (default: a temporary folder)")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--child", nargs=3, metavar=("WAY", "A", "B"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        way, a, b = given.child
        WAYS[way](Path(a), Path(b))
        print(peak_kilobytes())
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_checkpoint(folder / "a", given.blocks, Layout())
        size = sum(path.stat().st_size for path in (folder / "a").iterdir())
        print(f"{size / 1e9:.2f} GB a side, {given.runs} runs each, {os.cpu_count()} processors\n")
        print("| case | way | seconds | of cmp | of naive | peak MiB |")
        print("| --- | --- | ---: | ---: | ---: | ---: |")
        for case in given.only:
            other = folder / repr(CASES[case].other)
            if not other.exists():
                write_checkpoint(other, given.blocks, CASES[case].other)
            table(case, folder / "a", other, given.runs)


def peak_kilobytes() -> int:
    """The peak of resident memory of this process; that of `cmp` itself is not seen."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def table(name: str, a: Path, b: Path, runs: int) -> None:
    case = CASES[name]
    measured: dict[str, list[tuple[float, float]]] = {way: [] for way in case.ways}
    read((a, b))
    for _ in range(runs):
        for way in case.ways:
            if case.cold:
                drop((a, b))
            measured[way].append(measure(way, a, b))
    medians = {way: statistics.median(seconds for seconds, _ in values) for way, values in measured.items()}
    naive = NAIVE if NAIVE in medians else case.ways[0]
    for way, values in measured.items():
        memory = max(peak for _, peak in values)
        of_cmp = f"{medians[way] / medians['cmp']:.2f}" if "cmp" in medians else ""
        of_naive = medians[way] / medians[naive]
        print(
            f"| {name} | {way} | {medians[way]:.2f} | {of_cmp} | {of_naive:.3f} | {memory:.0f} |", flush=True
        )


def read(folders: Iterable[Path]) -> None:
    """Bring all files into the page cache."""
    for folder in folders:
        for path in folder.iterdir():
            with path.open("rb", buffering=0) as stream:
                while stream.read(1 << 20):
                    pass


def drop(folders: Iterable[Path]) -> None:
    """Drop all files from the page cache."""
    for folder in folders:
        for path in folder.iterdir():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(way: str, a: Path, b: Path) -> tuple[float, float]:
    """Run one way in a process of its own; give wall seconds and peak resident MiB."""
    start = time.perf_counter()
    # The child reports its own peak: before exec, a forked child counts its parent's memory as its own.
    command = [sys.executable, __file__, "--child", way, str(a), str(b)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - start, float(done.stdout.splitlines()[-1]) / 1024


if __name__ == "__main__":
    main()
