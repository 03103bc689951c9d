"""What the installed, unused plugin costs at start-up, beside a pytest without it.

Whole processes of `pytest --collect-only` on an empty test file, alternating, with the plugin and with
`-p no:genmodel`; medians and the difference, in milliseconds. Third-party plugins are the same on both sides.

    python benchmarks/startup.py [--runs 21] [--no-bytecode]

Bytecode is cached, as on any machine where the package was used once; `--no-bytecode` measures the first use (or an
installation that cannot write).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET_MS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21, help="runs of each kind (15 or more)")
    parser.add_argument("--no-bytecode", action="store_true", help="compile every module in every run")
    given = parser.parse_args()
    runs: int = given.runs
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_empty.py").write_text("")
        kinds = {"with the plugin": [], "without (-p no:genmodel)": ["-p", "no:genmodel"]}
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder, "bytecode"))}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if given.no_bytecode:
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
        times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for arguments in kinds.values():  # fills caches, not counted
            measure(folder, arguments, environment)
        for _ in range(runs):
            for kind, arguments in kinds.items():
                times[kind].append(measure(folder, arguments, environment))
    print(f"pytest --collect-only on an empty file, {runs} runs each, milliseconds\n")
    print(f"| {'':24} | wall median | wall min | CPU median |\n| {'-' * 24} | ---: | ---: | ---: |")
    for kind, values in times.items():
        wall, cpu = [w for w, _ in values], [c for _, c in values]
        print(f"| {kind:24} | {median(wall):.1f} | {min(wall) * 1e3:.1f} | {median(cpu):.1f} |")
    with_, without = (times[kind] for kind in kinds)
    paired = [a[0] - b[0] for a, b in zip(with_, without, strict=True)]
    cpu = statistics.median(c for _, c in with_) - statistics.median(c for _, c in without)
    print(
        f"\nthe plugin adds {median(paired):.1f} ms wall (median of pairs), {cpu * 1e3:.1f} ms CPU; ", end=""
    )
    print(f"target: under {TARGET_MS} ms")


def median(values: list[float]) -> float:
    return statistics.median(values) * 1e3


def measure(folder: str, arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run one process; give its wall and CPU seconds."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False)
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu


if __name__ == "__main__":
    main()
