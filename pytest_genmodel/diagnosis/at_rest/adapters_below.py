"""Adapters in the folders below an adapter's: which of them is the result, only the trainer knew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_genmodel.checkpoints.alpha import PEFT_FILES
from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint
from pytest_genmodel.checkpoints.formats import lora_adapter
from pytest_genmodel.checkpoints.saved import Saved, saved_in
from pytest_genmodel.diagnosis.at_rest.files import hold_the_same
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.errors import GenmodelError

NEWER = 3600.0
"""Seconds by which a step that was saved on the way must be younger than the result: copying and downloading set
times too, in any order, and take less."""


def adapters_below(checkpoint: Checkpoint) -> Iterator[Finding]:
    """A folder below the adapter's holds another adapter for the same layers, and the one above it is read.

    Steps (`checkpoint-500/`) are saved on the way to the result above them, PEFT saves each further adapter in a
    folder below the first, and some trainers keep the best one apart: such a folder is named only where it is an hour
    younger. Averages (EMA), copies of the adapter, and adapters for other layers never are.
    """
    adapter = checkpoint.adapter
    if adapter is None or Path(checkpoint.spec).is_file():
        return  # the file itself was named
    for saved in _below(adapter.folder):
        other = _other(saved, adapter)
        if other is None:
            continue
        younger = other.file.stat().st_mtime - adapter.file.stat().st_mtime
        if _belongs(saved, adapter) and younger < NEWER:
            continue
        place = other.file.relative_to(adapter.folder).as_posix()
        age = f", and is {younger / NEWER:.3g} hours younger" if younger >= NEWER else ""
        yield Finding(
            "GM106",
            f"{place} holds another adapter for the same layers{age}; {adapter.file.name} above it is the one "
            "that is read",
            location=place,
            cause="an older result was left above that of the last run",
            action=f"Give {place} as --genmodel-ckpt if it is the result; else move it away.",
            evidence={"read": adapter.file.name, "passed_over": place, "hours_younger": younger / NEWER},
        )
        return


def _belongs(saved: Saved, adapter: Adapter) -> bool:
    """Whether a trainer's own layout has the folder below the result."""
    best = any(part.lower().startswith("best") for part in saved.place.split("/"))
    return saved.step is not None or adapter.file.name in PEFT_FILES or best


def _below(folder: Path) -> list[Saved]:
    try:
        found = saved_in(folder)
    except OSError:
        return []
    within = [one for one in found if one.path.is_dir() and one.path != folder and not one.is_ema]
    return sorted(within, key=lambda one: (one.step is not None, -(one.step or 0)))


def _other(saved: Saved, adapter: Adapter) -> Adapter | None:
    """The adapter in the folder, where it is for the same layers and has other values."""
    try:
        if not lora_adapter.recognises(saved.path):
            return None
        other = lora_adapter.read(saved.path, str(saved.path)).adapter
        ours = adapter.weights.tensors.keys()
        if other is None or 2 * len(ours & other.weights.tensors.keys()) <= len(ours):
            return None
        return None if hold_the_same(other.weights, adapter.weights) else other
    except (GenmodelError, OSError):  # a file that cannot be read is no result, and not what is judged
        return None
