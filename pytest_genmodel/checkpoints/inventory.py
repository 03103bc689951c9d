"""What a trainer left in its output folder: each complete set of weights, and which of them a spec means.

A run leaves more than one: its final result, a folder for each step that was saved, a running average (EMA) beside
the raw weights. Taking one of them by accident is a fault that nobody sees, so a name is asked for where there is
a choice.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.formats import component_folders
from pytest_genmodel.checkpoints.one_format import read_one
from pytest_genmodel.checkpoints.saved import Saved, pointer_of, saved_in

MOST_NAMED = 8
"""Sets that a message names; `genmodel inspect` lists all of them."""
FINAL, LATEST, RAW, EMA = "final", "latest", "raw", "ema"
"""What may be asked for without knowing a label."""


@dataclass(frozen=True)
class SavedSet:
    """One complete set of weights in a trainer's output.

    `label` names it (`SPEC@label`), `what` says what it is in words. `step` is the number of the step that it was
    saved at, None at the top. `group` is the same for raw weights and the average that was saved with them.
    """

    label: str
    path: Path
    what: str
    step: int | None
    is_ema: bool
    group: str
    folders: tuple[Path, ...] = ()
    """Component folders that make up the set, where `path` holds more than them."""

    def open(self, spec: str) -> Checkpoint:
        """Open the set; `spec` is how the user named it.

        Raises:
            UnreadableCheckpointError, DamagedFileError: as `read_one`.
        """
        if self.folders:
            return component_folders.gathered(self.path, self.folders, spec)
        return read_one(self.path, spec)


@dataclass(frozen=True)
class Inventory:
    """Every set of weights under a folder, those at the top first, then by step.

    `pointed` is the group that the trainer's own pointer names (SAT's and DeepSpeed's file `latest`).
    """

    root: Path
    sets: tuple[SavedSet, ...]
    pointed: str | None = None

    @property
    def final(self) -> SavedSet | None:
        """What the folder means by itself: the one result at its top, or the one that the trainer points to.

        None where nothing is final, or where raw weights and their average lie side by side.
        """
        meant = [one for one in self.sets if one.label == FINAL]
        if not meant and self.pointed is not None:
            meant = [one for one in self.sets if one.group == self.pointed]
        return meant[0] if len(meant) == 1 else None

    @property
    def pairs(self) -> tuple[tuple[SavedSet, SavedSet], ...]:
        """Raw weights and the average that was saved with them, each as (raw, EMA)."""
        found = []
        for average in (one for one in self.sets if one.is_ema):
            raws = [one for one in self.sets if not one.is_ema and one.group == average.group]
            if len(raws) == 1:
                found.append((raws[0], average))
        return tuple(found)

    def find(self, which: str, spec: str) -> SavedSet:
        """The set that `which` names: a label, a step, `latest`, `final`, `raw`, `ema`; `latest/ema`.

        Args:
            which: what stands behind the `@`.
            spec: what stands before it.

        Raises:
            UnreadableCheckpointError: no set has the name, or several; says how to name each.
        """
        meant = self._meant(which)
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise UnreadableCheckpointError(
                f"{spec}@{which}: {len(meant)} sets of weights have this name: {_how(meant, spec)}"
            )
        if not self.sets:
            raise UnreadableCheckpointError(f"{spec}@{which}: no set of weights lies in {spec}")
        near = difflib.get_close_matches(which, [one.label for one in self.sets], n=1, cutoff=0.6)
        hint = f"; did you mean {spec}@{near[0]}?" if near else ""
        raise UnreadableCheckpointError(
            f"{spec}@{which}: no set of weights in {spec} has this name (it has {_named(self.sets)}){hint}"
        )

    def _meant(self, which: str) -> list[SavedSet]:
        if exact := [one for one in self.sets if one.label == which]:
            return exact
        head, _, tail = which.rpartition("/")
        meant = list(self.sets)
        if tail in (RAW, EMA):
            meant = [one for one in meant if one.is_ema == (tail == EMA)]
        else:
            head = which
        if not head:
            return meant
        if head == FINAL:
            return [one for one in meant if one.step is None]
        if head == LATEST or head.endswith(f"/{LATEST}"):
            within = head.removesuffix(LATEST)
            meant = [one for one in meant if one.step is not None and one.group.startswith(within)]
            return [one for one in meant if one.step == max(other.step or 0 for other in meant)]
        step = int(head) if head.isdecimal() and len(head) < 19 else None
        return [one for one in meant if one.group == head or (step is not None and one.step == step)]

    def choice(self, spec: str) -> str:
        """Say in one line why `spec` alone means none of the sets, and how to name each."""
        near = [one for one in self.sets if one.step is None] or [
            one for one in self.sets if one.group == self.pointed
        ]
        if any(one.is_ema for one in near) and not all(one.is_ema for one in near):
            why = "raw weights and their running average (EMA) lie side by side, and nothing says which is meant"
        elif len(near) > 1:
            why = f"{len(near)} sets of weights lie here, and nothing says which is meant"
        else:
            why = "no final result lies here, only what was saved on the way"
        return f"{spec}: {why}: {_how(self.sets, spec)}"


def _how(sets: Sequence[SavedSet], spec: str) -> str:
    example = next((one for one in reversed(sets) if not one.is_ema), sets[-1])
    return f"name one, as {spec}@{example.label} (there are {_named(sets)})"


def _named(sets: Sequence[SavedSet]) -> str:
    labels = [one.label for one in sets]
    if len(labels) > MOST_NAMED:
        half = MOST_NAMED // 2
        labels = [*labels[:half], f"{len(labels) - 2 * half} more", *labels[-half:]]
    return ", ".join(labels)


def inventory(path: Path) -> Inventory:
    """List the sets of weights under `path`; a folder that is one checkpoint has one set, a file none.

    Names and small files are looked at; no weights are read.
    """
    if not path.is_dir():
        return Inventory(path, ())
    found = saved_in(path)
    sets = _labelled(found)
    sets.sort(key=lambda one: (one.step is not None, one.step or 0, one.is_ema))
    pointer = pointer_of(path)
    return Inventory(
        path, tuple(sets), pointer if pointer in {one.group for one in sets if one.step is not None} else None
    )


def _labelled(found: Sequence[Saved]) -> list[SavedSet]:
    """Name each set after its place, and after what tells it from the others there."""
    sets: list[SavedSet] = []
    for one in found:
        label = "/".join(part for part in (one.place, _tail(one, found)) if part) or FINAL
        taken = sum(other.label.partition("#")[0] == label for other in sets)
        if taken:  # a file and a folder of one name
            label = f"{label}#{taken + 1}"
        sets.append(SavedSet(label, one.path, one.what, one.step, one.is_ema, one.group, one.folders))
    return sets


def _tail(one: Saved, found: Sequence[Saved]) -> str:
    """What is added to the place: nothing where it says enough, as a folder `1000-ema` does."""
    here = [other for other in found if other.place == one.place]
    alike = [other for other in here if other.is_ema == one.is_ema]
    if one.is_whole:
        return ""
    if len(alike) > 1:
        return one.name
    if one.is_ema:
        return EMA if len(here) > 1 or not one.place else ""
    averaged = any(other.is_ema and other.group == one.group for other in found)
    return RAW if averaged and (len(here) > 1 or not one.place) else ""
