"""Comparing two tensors in memory: milliseconds, ratios and extra memory, side by side in one run.

`torch.testing.assert_close` with torch's own threads and with one, a full report by whole-tensor torch arithmetic
(what one writes by hand: figures, worst place, counts along each axis), and `compare` of this package, in turn.

    equal     a copy
    close     every element within one unit in the last place
    fail      the same, and 0.5 added to each 100th element: the report is complete, in words too
    noise     1 % of noise on everything

Medians. Memory is the rise of the peak over what the two tensors hold.

    python benchmarks/tensors.py [--numel 100000000] [--runs 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pytest_genmodel.tensors import compare

Tensors = tuple[torch.Tensor, torch.Tensor]
THREADS = torch.get_num_threads()
ROWS = 1000


def pair(case: str, numel: int, dtype: torch.dtype) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    expected = torch.randn(numel, generator=generator).add_(1e-3).to(dtype)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    actual = expected.clone()
    if case in ("close", "fail"):
        step = torch.randint(0, 2, (numel,), generator=generator, dtype=bits)
        actual = actual.view(bits).add_(step).view(dtype)
    if case == "fail":
        actual[::100] += 0.5
    if case == "noise":
        actual += torch.randn(numel, generator=generator).mul_(0.01).to(dtype)
    shape = (ROWS, -1) if numel % ROWS == 0 and numel > ROWS else (-1,)
    return actual.view(shape), expected.view(shape)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    try:
        torch.testing.assert_close(actual, expected)
    except AssertionError as error:
        str(error)


def assert_close_one_thread(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.set_num_threads(1)
    try:
        assert_close(actual, expected)
    finally:
        torch.set_num_threads(THREADS)


def naive_report(actual: torch.Tensor, expected: torch.Tensor) -> object:
    """The figures of `Comparison`, as one writes them down."""
    x, y = actual.float(), expected.float()
    distance = (x - y).abs()
    bad = distance > 1e-5 + 1.3e-6 * y.abs()
    bits = torch.int32 if actual.dtype == torch.float32 else torch.int16
    ulp = (actual.view(bits).long() - expected.view(bits).long()).abs()
    return (
        x.isnan().sum().item(),
        y.isnan().sum().item(),
        (x != y).sum().item(),
        bad.sum().item(),
        distance.max().item(),
        (distance / y.abs()).nan_to_num(0.0).max().item(),
        distance.pow(2).mean().sqrt().item(),
        ulp.max().item(),
        torch.cosine_similarity(x.flatten(), y.flatten(), dim=0).item(),
        abs(x.norm() - y.norm()) / y.norm(),
        distance.norm() / y.norm(),
        torch.unravel_index(distance.argmax(), distance.shape),
        [bad.movedim(axis, 0).flatten(1).sum(1) for axis in range(bad.dim())],
        [distance.movedim(axis, 0).flatten(1).amax(1) for axis in range(bad.dim())],
    )


def ours(actual: torch.Tensor, expected: torch.Tensor) -> None:
    str(compare(actual, expected))


def ours_without_words(actual: torch.Tensor, expected: torch.Tensor) -> None:
    compare(actual, expected)


WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "assert_close": assert_close,
    "assert_close, 1 thread": assert_close_one_thread,
    "naive full report": naive_report,
    "ours": ours,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--numel", type=int, default=10**8)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    print(f"{given.numel:.0e} elements, {given.runs} runs each, {os.cpu_count()} processors, ", end="")
    print(f"torch {torch.__version__}\n")
    print(
        "| case | way | ms | assert_close / it | assert_close, 1 thread / it | naive report / it | extra MiB |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for dtype in (torch.float32, torch.bfloat16):
        for case in ("equal", "close", "fail", "noise"):
            table(f"{str(dtype)[6:]} {case}", pair(case, given.numel, dtype), given.runs)
    print("\n| small float32 | assert_close, us | ours, us | ratio |\n| --- | ---: | ---: | ---: |")
    for numel in (1, 100, 10**4, 10**5):
        for case in ("equal", "close"):
            small(case, numel)


def table(name: str, tensors: Tensors, runs: int) -> None:
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    memory = dict.fromkeys(WAYS, 0.0)
    for run in WAYS.values():  # so that code which is loaded when it is first needed does not count
        run(*(side.view(-1)[:200_000].view(ROWS, -1) for side in tensors))
    for _ in range(runs):
        for way, run in WAYS.items():
            before = reset_peak()
            start = time.perf_counter()
            run(*tensors)
            times[way].append(time.perf_counter() - start)
            memory[way] = max(memory[way], status("VmHWM") - before)
    medians = {way: statistics.median(values) * 1e3 for way, values in times.items()}
    for way, median in medians.items():
        ratios = (medians[other] / median for other in tuple(WAYS)[:3])
        cells = " | ".join(f"{ratio:.1f}" for ratio in ratios)
        print(f"| {name} | {way} | {median:.1f} | {cells} | {memory[way]:.0f} |", flush=True)


def small(case: str, numel: int) -> None:
    tensors = pair(case, numel, torch.float32)
    loops = max(20, 20_000 // (20 + numel // 100))
    theirs, mine = [], []
    for _ in range(15):
        theirs.append(microseconds(assert_close, tensors, loops))
        mine.append(microseconds(ours_without_words, tensors, loops))
    a, b = statistics.median(theirs), statistics.median(mine)
    print(f"| N = {numel}, {case} | {a:.1f} | {b:.1f} | {a / b:.1f} |", flush=True)


def microseconds(run: Callable[[torch.Tensor, torch.Tensor], object], tensors: Tensors, loops: int) -> float:
    start = time.perf_counter()
    for _ in range(loops):
        run(*tensors)
    return (time.perf_counter() - start) / loops * 1e6


def reset_peak() -> float:
    """Forget the peak of resident memory; give what is resident now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
