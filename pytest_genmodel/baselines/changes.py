"""What an update changes, in lines for a person: entries, tensors, keys, and how far frames and values moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_genmodel.baselines.observations import sample_from_entry
from pytest_genmodel.baselines.record import CLIPS, COMPONENT, PIPELINE, SAMPLE, SCHEDULE, TOKENS
from pytest_genmodel.baselines.store import BaselineError, Changed, Entry, Store
from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.pipelines.effective import differences

MOST_KEYS = 5
"""Configuration keys of a component that are named."""


def change_lines(before: Store, after: Store) -> list[str]:
    """One line for each entry that changes, the most telling first; none where nothing does."""
    changes = before.diff(after)
    first = [change for change in changes if change.name.startswith("reference/")]
    rest = [change for change in changes if not change.name.startswith("reference/")]
    return [_line(change, before.path.name) for change in (*first, *rest)]


def _line(change: Changed, file: str) -> str:
    mark = {"added": "+", "removed": "-", "changed": "~"}[change.how]
    what = ""
    if change.before is not None and change.after is not None:
        what = "; ".join(_details(change.name, change.before, change.after, file))
    elif change.after is not None:
        what = _holds(change.after)
    return f"  {mark} {change.name}{f': {what}' if what else ''}"


def _holds(entry: Entry) -> str:
    tensors = entry.value.get("tensors") if isinstance(entry.value, dict) else None
    if isinstance(tensors, dict):
        return f"{len(tensors)} tensors"
    return ", ".join(f"{blob.dtype} {list(blob.shape)}" for blob in entry.tensors.values())


def _details(name: str, before: Entry, after: Entry, file: str) -> Iterator[str]:
    if name == PIPELINE:
        yield from _keys(_of(before.value, "conditions"), _of(after.value, "conditions"))
        yield from _keys(_of(before.value, "environment"), _of(after.value, "environment"))
        yield from _keys(_of(before.value, "arguments"), _of(after.value, "arguments"))
        old, new = _of_text(before.value, "spec"), _of_text(after.value, "spec")
        if old != new:
            yield f"made of {new} instead of {old}"
        old, new = _of_text(before.value, "digest"), _of_text(after.value, "digest")
        if old != new:
            yield f"digest {old[:8]} -> {new[:8]}"
    elif name.startswith(COMPONENT):
        yield from _component(before, after)
    elif name == SAMPLE:
        yield from _sample(before, after, file)
    elif name == CLIPS:
        yield "the numbers of the whole clips"
    elif name == SCHEDULE:
        yield from _moved(before, after)
    elif name.startswith(TOKENS):
        yield "what the tokenizer does"
    elif name.startswith("golden/"):
        yield from _moved(before, after)


def _component(before: Entry, after: Entry) -> Iterator[str]:
    old, new = _of(before.value, "tensors"), _of(after.value, "tensors")
    changed = [name for name in old if name in new and old[name] != new[name]]
    for names, what in (
        (changed, "changed"),
        ([name for name in new if name not in old], "added"),
        ([name for name in old if name not in new], "removed"),
    ):
        if names:
            yield f"{len(names)} of {len(new)} tensors {what} ({summarise(names)})"
    yield from _keys(_of(before.value, "effective"), _of(after.value, "effective"))


def _keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    found = differences(new, old)
    for key, (now, was) in list(found.items())[:MOST_KEYS]:
        yield f"{key} {was!r} -> {now!r}"
    if len(found) > MOST_KEYS:
        yield f"and {len(found) - MOST_KEYS} more keys"


def _sample(before: Entry, after: Entry, file: str) -> Iterator[str]:
    try:
        old, new = sample_from_entry(before, file), sample_from_entry(after, file)
    except BaselineError:
        yield "the one on record was damaged"
        return
    shared = [step for step in old.latents if step in new.latents]
    if shared and old.latents[shared[-1]].shape == new.latents[shared[-1]].shape:
        a, b = new.latents[shared[-1]], old.latents[shared[-1]]
        scale = float(b.abs().max()) or 1.0
        yield f"the last latents move by {float((a - b).abs().max()) / scale:.3g} of their largest value"
    if old.frames is None or new.frames is None or old.frames.shape != new.frames.shape:
        yield "frames of another size"
        return
    levels = (new.frames.int() - old.frames.int()).abs()
    yield f"pixels move by up to {int(levels.max())} of 255 levels, {float(levels.float().mean()):.2g} in the mean"


def _moved(before: Entry, after: Entry) -> Iterator[str]:
    """How far tensors of one name moved, or that they are of another kind."""
    for key, blob in after.tensors.items():
        was = before.tensors.get(key)
        if was is None:
            yield f"{key} is new"
        elif (was.dtype, was.shape) != (blob.dtype, blob.shape):
            yield f"{was.dtype} {list(was.shape)} -> {blob.dtype} {list(blob.shape)}"
        elif was.data != blob.data:
            away = (blob.tensor().double() - was.tensor().double()).abs()
            yield f"{key} moves by up to {float(away.max()):.3g}"


def _of(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _of_text(value: Any, key: str) -> str:
    return str(value.get(key)) if isinstance(value, dict) else ""
