"""What looking for the first divergence costs: seconds beside a plain sample, and memory beside one model.

    python benchmarks/trace.py [--rounds 5] [--layers 8]

Two models: the tiny one (what a trace costs where the modules themselves cost nothing), and one of the same layout
with a denoiser of some 200 MB and larger clips. Ways take turns within a round; the median of the rounds is given.
Memory is the peak of a process of its own: one that samples one model, one that samples two models held at the same
time, and one that searches for the place where the two part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_genmodel.diagnosis.divergence import find_divergence
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.tracing import Side, Trace, trace
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings

STEPS = 2


def medium(folder: Path, layers: int) -> Path:
    """The tiny pipeline with a wider and deeper denoiser."""
    from diffusers import CogVideoXTransformer3DModel

    pipeline = tiny.materialise("cogvideox-i2v", folder)
    config = json.loads((pipeline / "transformer" / "config.json").read_text())
    config |= {"num_attention_heads": 16, "attention_head_dim": 48, "num_layers": layers}
    config |= {"sample_height": 12, "sample_width": 12, "sample_frames": 17}
    CogVideoXTransformer3DModel.from_config(config).save_pretrained(pipeline / "transformer")
    return pipeline


def changed(folder: Path, target: Path) -> Path:
    """A copy with one weight of the denoiser's middle changed."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    file = target / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    names = sorted(name for name in tensors if name.endswith("attn1.to_v.weight"))
    tensors[names[len(names) // 2]] *= 1.1
    save_file(tensors, file)
    return target


def opened(candidate: Path, reference: Path) -> Any:
    """A context of the two."""
    return GenmodelSession(Settings(candidates=(str(candidate),), reference=str(reference))).context(0)


def probe_of(context: Any, side: int) -> Probe:
    """Clips of this many pixels each way."""
    probe: Probe = context.probe.but(steps=STEPS, height=side, width=side)
    return probe if side == probe.image.shape[-1] else probe.but(frames=17)


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def timed(reference: Path, candidate: Path, side: int, rounds: int) -> dict[str, Any]:
    """Seconds of a plain sample, a trace, and the whole search, in turns."""
    context = opened(candidate, reference)
    probe, ours, theirs = probe_of(context, side), Side(context.candidate), Side(context.reference)
    kept: list[Trace] = []
    taken: dict[str, list[float]] = {"sample": [], "trace": []}
    theirs.pipeline.sample(probe)
    for number in range(rounds + 1):
        sample = seconds(lambda n=number: theirs.pipeline.sample(probe, transformation=f"again {n}"))  # type: ignore[misc]
        traced = seconds(lambda: kept.append(trace(theirs, probe)))
        if number:  # the first is for the caches
            taken["sample"].append(sample)
            taken["trace"].append(traced)
    values = [value for event in kept[0].events for _, value in event.values if not isinstance(value, str)]
    found = None

    def search() -> None:
        nonlocal found
        found = find_divergence(ours, theirs, probe, 1).divergences[0]

    whole = seconds(search)
    assert found is not None
    median = {name: statistics.median(times) for name, times in taken.items()}
    return {
        **median,
        "ratio": median["trace"] / median["sample"],
        "search": whole,
        "calls": kept[0].calls,
        "tensors": len(values),
        "place": found.parting.event.call.place,
    }


def peak(way: str, reference: Path, candidate: Path, side: int) -> float:
    """The peak resident memory of a process of its own, in MiB."""
    command = [sys.executable, __file__, "--way", way, str(reference), str(candidate), str(side)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.strip().splitlines()[-1])


def run_way(way: str, reference: Path, candidate: Path, side: int) -> None:
    """Do one thing in this process, and print its peak memory (a child's `ru_maxrss` would begin at its parent's)."""
    context = opened(candidate, reference)
    probe = probe_of(context, side)
    if way == "one":
        context.reference.sample(probe)
    elif way == "two":
        other = opened(candidate, reference)
        context.reference.sample(probe)
        other.candidate.sample(probe)
    elif way == "search":
        find_divergence(Side(context.candidate), Side(context.reference), probe, 1)
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=6, help="blocks of the medium denoiser")
    parser.add_argument("--way", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        way, reference, candidate, side = given.way
        run_way(way, Path(reference), Path(candidate), int(side))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        models = {}
        for name, make, side in (
            ("tiny", lambda path: tiny.materialise("cogvideox-i2v", path), 16),
            ("medium", lambda path: medium(path, given.layers), 96),
        ):
            (root / name).mkdir()
            reference = make(root / name)
            models[name] = reference, changed(reference, root / f"{name}-changed"), side
        print("| model | denoiser MB | calls | tensors | sample, s | trace, s | ratio | whole search, s |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name, (reference, candidate, side) in models.items():
            size = (reference / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size / 1e6
            row = timed(reference, candidate, side, given.rounds)
            print(
                f"| {name} | {size:.1f} | {row['calls']} | {row['tensors']} | {row['sample']:.2f} | "
                f"{row['trace']:.2f} | {row['ratio']:.2f} | {row['search']:.2f} |"
            )
        print("\n| peak MiB | one model | two at a time | search |\n| --- | ---: | ---: | ---: |")
        for name, (reference, candidate, side) in models.items():
            peaks = [peak(way, reference, candidate, side) for way in ("one", "two", "search")]
            print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in peaks) + " |")


if __name__ == "__main__":
    main()
