"""What a trainer's process saw, carried to the process that judges: a file for each process, rewritten each step."""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path

from pytest_genmodel.training.observer import Observed, OptimizerWatch, together


def report_to(folder: str) -> None:
    """Watch the optimizers of this process, and keep a report in `folder`.

    Called inside the trainer's process. A forked child that trains writes a report of its own.
    """

    def write(seen: Observed) -> None:
        file = Path(folder) / f"{os.getpid()}.json"
        unfinished = file.with_suffix(".part")
        unfinished.write_text(json.dumps(seen.to_json()), encoding="utf-8")
        os.replace(unfinished, file)

    watch = OptimizerWatch(write)
    owner = os.getpid()

    def finish() -> None:
        if os.getpid() == owner:
            write(watch.finish())

    write(watch.seen)  # a process without a step has said that there was none
    atexit.register(finish)


def read_reports(folder: Path) -> Observed | None:
    """What the processes of a run saw together; None where none of them could be watched."""
    seen = [
        Observed.from_json(json.loads(file.read_text(encoding="utf-8"))) for file in folder.glob("*.json")
    ]
    return together(seen) if seen else None
