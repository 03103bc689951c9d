"""`python -m tests.fuzz --cases 20000`: every reader in a process of its own, with its memory bounded."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.seeds import SEEDS

ROOM = 1 << 30
"""Bytes of address space that a reader may take beyond what it has after reading the valid checkpoint."""


def main() -> int:
    """Run all readers, or the one that a child process was started for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="damaged checkpoints for each reader")
    parser.add_argument("--reader", action="append", choices=sorted(SEEDS), help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=sorted(SEEDS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run(arguments.child, arguments.cases, arguments.seed)))
        return 0
    print(f"{'reader':18}{'cases':>8}{'refused':>9}{'read':>7}{'seconds':>9}{'slowest':>9}{'memory':>10}")
    failed = []
    for name in arguments.reader or SEEDS:
        command = [sys.executable, "-m", "tests.fuzz", "--child", name]
        command += ["--cases", str(arguments.cases), "--seed", str(arguments.seed)]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if child.returncode:
            failed.append(name)
            print(f"{name:18} FAILED")
            continue
        found = json.loads(child.stdout.splitlines()[-1])
        print(
            f"{name:18}{found['cases']:>8}{found['refused']:>9}{found['read']:>7}{found['seconds']:>9.1f}"
            f"{found['slowest']:>8.2f}s{found['memory'] / 1e6:>7.1f} MB",
            flush=True,
        )
    return 1 if failed else 0


def run(name: str, cases: int, seed: int) -> dict[str, float]:
    """Damage one seed; gives counts, seconds, the slowest case, and the memory that the hungriest has taken."""
    import hypothesis

    from tests.fuzz.bench import Bench
    from tests.fuzz.strategies import edits

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(name, Path(folder))
        bench.judge_whole()
        slowest, memory, count = 0.0, 0, 0
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + ROOM, in_use + ROOM))

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=cases,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(edits(bench.files))
        def case(damages: object) -> None:
            nonlocal slowest, memory, count
            count += 1
            before = _memory(forget=True)
            begin = time.perf_counter()
            bench.judge(damages)  # type: ignore[arg-type]
            slowest = max(slowest, time.perf_counter() - begin)
            memory = max(memory, _memory() - before)

        begin = time.perf_counter()
        case()
        return {
            "cases": count,
            "refused": bench.refused,
            "read": bench.read,
            "seconds": time.perf_counter() - begin,
            "slowest": slowest,
            "memory": memory,
        }


def _memory(forget: bool = False) -> int:
    """The most memory that was resident, in bytes; from now on, if the past is forgotten (Linux)."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
