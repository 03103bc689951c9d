"""Faults injected one by one, and what the first cause says of each: what docs/causes.md is measured with."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_genmodel.audit.audit import Audit
from pytest_genmodel.diagnosis.causes import Cause, causes
from pytest_genmodel.early_checks import check_specs
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.faults.copy import Copy, DoesNotApplyError, clone
from pytest_genmodel.faults.legitimate import all_differences
from pytest_genmodel.faults.misses import MISSES
from pytest_genmodel.faults.registry import LAYERS, Fault, Place, all_faults
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.reports.report import plain
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.suite import SUITE
from pytest_genmodel.whole_file import write_whole

MODEL, HELD_OUT = "cogvideox-i2v", "cogvideox-i2v-trained"
PAIRS = 60
COLUMNS = ("files", "every claim", "trained model")


@dataclass(frozen=True)
class Said:
    """What the first cause says: whether it names the place, its code, component, location and confidence."""

    named: bool
    code: str | None = None
    component: str | None = None
    location: str | None = None
    confidence: str | None = None

    @property
    def cell(self) -> str:
        if self.code is None:
            return "no: nothing"
        if self.named:
            return f"yes: {self.code}, {self.confidence}"
        return f"no: {self.code} at {where(self.component, self.location)}, {self.confidence}"


@dataclass(frozen=True)
class Row:
    """One fault: its layer, where it was injected and under which code it is known, and what was said of it."""

    fault: str
    layer: str
    code: str
    injected: Place
    cells: Mapping[str, str] = field(default_factory=dict)

    def named(self, column: str) -> bool | None:
        """Whether the first cause names the place; None where nothing was run."""
        cell = self.cells[column]
        return None if cell == "-" else cell.startswith("yes")

    def said(self, column: str) -> tuple[str | None, str | None]:
        """Code and component of the first cause."""
        cell = self.cells[column]
        if match := re.match(r"yes: (\S+),", cell):
            return match[1], self.injected.component
        if match := re.match(r"no: (\S+) at ([^:,]+)", cell):
            return match[1], None if match[2] == "the pipeline" else match[2]
        return None, None


def where(component: str | None, location: str | None) -> str:
    return f"{component or 'the pipeline'}{f': {location}' if location else ''}"


def said_of(found: Sequence[Cause], place: Place) -> Said:
    if not found:
        return Said(False)
    first = found[0]
    return Said(
        place.holds(first.component, first.location),
        first.code,
        first.component,
        first.location,
        first.confidence.value,
    )


def records(session: GenmodelSession, sections: Sequence[str] = tuple(SUITE)) -> Iterator[dict[str, Any]]:
    """What the suite says of a run's candidate, as a report holds it."""
    for section in sections:
        for claim in SUITE[section]:
            verdict = session.judge(0, claim.invariant, dict(claim.parameters))
            id_ = f"genmodel::{section}::{claim.name}"
            yield plain({**verdict.to_json(), "id": id_, "candidate": "candidate", "samples_computed": 0})


class Bench:
    """Injects faults and asks for the causes; the healthy models are made once for each kind of run."""

    def __init__(self, work: Path, kept: Path | None = None) -> None:
        self.work = work
        self.kept = kept
        self._audits: dict[tuple[str, str | None, str], Audit] = {}
        self._sessions: list[GenmodelSession] = []

    def ask(self, fault: Fault, level: str, model: str | None = None) -> tuple[Said, Place] | None:
        """The first cause of a fault; None where it cannot be made of the model."""
        kept = self.kept / f"{fault.name}-{level}-{model or fault.model}.json" if self.kept else None
        if kept is not None and kept.exists():
            found = json.loads(kept.read_text(encoding="utf-8"))
        else:
            found = self._judged(fault, level, model or fault.model)
            if kept is not None:
                write_whole(kept, json.dumps(found))
        if found is None:
            return None
        place = Place(*found["place"])
        return said_of(causes(found["verdicts"]), place), place

    def _judged(self, fault: Fault, level: str, model: str) -> dict[str, Any] | None:
        audit = self._audit(model, fault.expect, level)
        folder = self.work / "faulty"
        try:
            with quiet(), audit.injected(fault, folder) as (session, place):
                sections = ("checkpoint",) if level == "static" else tuple(SUITE)
                found = list(records(session, sections))
        except (
            DoesNotApplyError,
            BadInputError,
        ):  # it cannot be made, or is refused before anything is judged
            return None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if fault.kind == "environment":
            found = [_as_everywhere(verdict) for verdict in found]
        return {"place": list(place), "verdicts": found}

    def _audit(self, model: str, expect: str | None, level: str) -> Audit:
        key = (model, expect, level)
        if key not in self._audits:
            spec = f"tiny:{model}"
            session = GenmodelSession(
                Settings(candidates=(spec,), reference=spec, expect=expect, level=level)
            )
            self._sessions.append(session)
            self._audits[key] = Audit(session, (), seconds=0.0)
        return self._audits[key]

    def close(self) -> None:
        for audit in self._audits.values():
            audit.close()
        for session in self._sessions:
            session.close()


def _as_everywhere(verdict: dict[str, Any]) -> dict[str, Any]:
    """A fresh process is not broken: the library is, in this one alone (as the audit sees it)."""
    kept = [finding for finding in verdict["findings"] if finding["code"] != "GM507"]
    passes = verdict["outcome"] == "failed" and not any(one["severity"] == "error" for one in kept)
    return {**verdict, "findings": kept, "outcome": "passed" if passes else verdict["outcome"]}


def caught() -> list[Fault]:
    faults = [fault for name, fault in all_faults().items() if name not in MISSES]
    return sorted(faults, key=lambda fault: (LAYERS.index(fault.layer), fault.name))


def row(bench: Bench, fault: Fault) -> Row:
    """Ask in every way that the fault allows."""
    cells = dict.fromkeys(COLUMNS, "-")
    place = fault.place or Place(None)
    asked: list[tuple[str, str, str | None]] = []
    if fault.kind != "environment" and fault.level == "static":
        asked.append(("files", "static", None))
        if (fault.model, fault.kind) == (MODEL, "checkpoint"):
            asked.append(("trained model", "static", HELD_OUT))
    asked.append(("every claim", "full" if fault.level == "full" else "quick", None))
    for column, level, model in asked:
        found = bench.ask(fault, level, model)
        if found is not None:
            said, at = found
            cells[column] = said.cell
            place = at if model is None else place
    return Row(fault.name, fault.layer, str(fault.code), place, cells)


def pairs(work: Path, count: int = PAIRS) -> tuple[int, int, list[str]]:
    """Two independent damages at once: how many pairs were seen, in how many each leads a cause, and the others."""
    faults = [
        fault
        for fault in caught()
        if (fault.kind, fault.level, fault.model, fault.severity, fault.expect)
        == ("checkpoint", "static", MODEL, "error", None)
        and fault.layer not in ("checkpoint-container", "security")
    ]
    drawn = random.Random(0)
    reference = tiny.materialise(MODEL, work / "pairs")
    seen, both, otherwise = 0, 0, []
    while seen < count:
        pair = drawn.sample(faults, 2)
        folder = clone(reference, work / "pair")
        try:
            places = [fault.inject(folder, reference).place for fault in pair]
            if places[0].component == places[1].component:
                continue
            found = _static(folder, reference)
        except (DoesNotApplyError, BadInputError):
            continue
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        loud = [f for verdict in found for f in verdict["findings"] if f["severity"] == "error"]
        components = {finding["component"] for finding in loud}
        if not all(place.component in components for place in places):
            continue  # one of them keeps the other from being looked at
        seen += 1
        leads = causes(found)[: len(pair) + 1]
        if all(any(place.holds(cause.component, cause.location) for cause in leads) for place in places):
            both += 1
        else:
            otherwise.append(" and ".join(fault.name for fault in pair))
    return seen, both, otherwise


def _static(folder: Path, reference: Path) -> list[dict[str, Any]]:
    session = GenmodelSession(Settings(candidates=(str(folder),), reference=str(reference), level="static"))
    try:
        check_specs(session)
        return list(records(session, ("checkpoint",)))
    finally:
        session.release()
        session.close()


def controls(work: Path) -> dict[str, int]:
    """How many causes are said of differences that are no faults."""
    reference = tiny.materialise(MODEL, work / "controls")
    said = {"nothing at all": len(causes(_static(reference, reference)))}
    for name, difference in all_differences().items():
        folder = clone(reference, work / "control")
        difference.make(Copy(folder))
        said[name] = len(causes(_static(folder, reference)))
        shutil.rmtree(folder)
    return said
