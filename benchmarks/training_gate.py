"""What the zero-LR gate costs: training runs, pipeline runs and seconds, for each trainer and level.

    python benchmarks/training_gate.py [--candidate tiny:cogvideox-i2v-trained] [--level quick --level full]

Each line is one claim; the claims of a trainer share a session, as they do in a run of the suite. A training run is
one call of the trainer; a sample is one run of the whole pipeline. The last column is the time that the script itself
took: most of it is the import of torch and diffusers in a process of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from pytest_genmodel.invariants import training_run
from pytest_genmodel.invariants.verdict import Verdict
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings

SCRIPT = Path(__file__).parents[1] / "examples" / "train_cogvideox_i2v.py"
CLAIMS = ("zero_lr_identity", "learning_moves")


def trainers() -> dict[str, str]:
    """Names, and what a marker would say."""
    arguments = (
        "--pretrained_model_name_or_path {reference} --instance_data_root {dataset} --output_dir {output} "
        "--learning_rate {lr} --max_train_steps {steps} --checkpointing_steps 1 --seed {seed}"
    )
    script = f"'{sys.executable}' '{SCRIPT}' {arguments}"
    return {
        "full": "full",
        "lora": "lora",
        "script, sft": f"{script} --training_type sft",
        "script, lora": f"{script} --training_type lora",
    }


def judged(candidate: str, level: str, trainer: str) -> Iterator[tuple[str, Verdict, int, int, float]]:
    """Each claim's verdict with the training runs, samples and seconds that it took."""
    session = GenmodelSession(Settings(candidates=(candidate,), level=level))
    try:
        for claim in CLAIMS:
            with mock.patch.object(training_run, "train", wraps=training_run.train) as train:
                before, start = session.samples.computed, time.perf_counter()
                verdict = session.judge(0, claim, {"trainer": trainer})
                seconds = time.perf_counter() - start
            yield claim, verdict, train.call_count, session.samples.computed - before, seconds
    finally:
        session.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidate", default="tiny:cogvideox-i2v-trained")
    parser.add_argument("--level", action="append", choices=("quick", "full"))
    given = parser.parse_args()
    for _ in judged(given.candidate, "quick", "full"):  # imports, not counted
        pass
    print(f"zero-LR gate on {given.candidate}\n")
    print("| level | trainer | claim | outcome | training runs | samples | seconds | in the trainer |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
    for level in given.level or ["quick", "full"]:
        for name, trainer in trainers().items():
            for claim, verdict, runs, samples, seconds in judged(given.candidate, level, trainer):
                inside = verdict.measurements.get("training_seconds", "")
                print(
                    f"| {level} | {name} | {claim} | {verdict.outcome.value} | {runs} | {samples} | {seconds:.1f} | "
                    f"{inside} |"
                )


if __name__ == "__main__":
    main()
