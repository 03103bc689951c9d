"""Write the measurements of docs/causes.md: `python -m tools.causes_page` (about twenty minutes on one core).

`--new` runs only the faults that the page does not know yet, and keeps what it says of the others: enough where a
fault was added. `--records FOLDER` keeps the verdicts there, and takes those that it finds: enough where a relation
has changed. Where a claim has changed, all of it is run.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_genmodel.audit.audit import Audit
from pytest_genmodel.diagnosis.causes import Cause, causes
from pytest_genmodel.diagnosis.causes.stages import STAGES, stage_of
from pytest_genmodel.early_checks import check_specs
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.faults.copy import Copy, DoesNotApplyError, clone
from pytest_genmodel.faults.legitimate import all_differences
from pytest_genmodel.faults.misses import MISSES
from pytest_genmodel.faults.registry import LAYERS, Fault, Place, all_faults
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.reports.report import plain, write_whole
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.suite import SUITE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "causes.md"
MODEL, HELD_OUT = "cogvideox-i2v", "cogvideox-i2v-trained"
PAIRS = 60
COLUMNS = ("files", "every claim", "trained model")
MARK = "## Measured\n"
"""Where on the page the part begins that is written here; what stands before it is written by hand."""
HOW = """
Every caught [fault](faults.md) is injected, and the first cause must name the component and the place at which it
was injected. **files**: the claims that need no run. **every claim**: the whole suite, training and adapters
included, at the level that the fault needs. **trained model**: the faults of files in another model than the one
that the relations were written with. A fault that gives a note alone has no cause, and counts as not named. This part
is written by `python -m tools.causes_page`.

"""
_ROW = re.compile(
    r"^\| ([a-z_0-9]+) \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE
)


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


def is_at(cause: Cause, place: Place) -> bool:
    """As the test of the faults says it: a file is enough where the finding says the byte too."""
    location = cause.location or ""
    return cause.component == place.component and (
        place.location is None
        or location == place.location
        or (":" not in place.location and location.startswith(f"{place.location}:"))
    )


def said_of(found: Sequence[Cause], place: Place) -> Said:
    if not found:
        return Said(False)
    first = found[0]
    return Said(is_at(first, place), first.code, first.component, first.location, first.confidence.value)


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
    asked = []
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
        if all(any(is_at(cause, place) for cause in leads) for place in places):
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


def page(rows: Sequence[Row], pairs_: tuple[int, int, list[str]], controls_: Mapping[str, int]) -> str:
    """The whole page as Markdown."""
    rows = sorted(rows, key=lambda one: (LAYERS.index(one.layer), one.fault))
    before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    parts = [before, MARK, HOW, *_shares(rows), *_otherwise(rows), *_confusion(rows)]
    seen, both, missed = pairs_
    parts.append(
        f"\n### Two damages at once\n\n{seen} pairs of faults, drawn with seed 0, each in two components of one "
        f"copy and both seen by a claim: in {both} of them ({both / seen:.0%}) each leads one of the first causes"
        + (f"; not in {', '.join(missed)}" if missed else "")
        + ".\n"
    )
    loud = [name for name, count in controls_.items() if count]
    parts.append(
        f"\n### Healthy models\n\n{len(controls_)} copies that are the same model (resharded, renamed, recast "
        f"without loss; [the list](faults.md#not-faults)): "
        + (f"a cause is said of {', '.join(loud)}.\n" if loud else "no cause is said of any.\n")
    )
    parts.append(
        "\n## Every fault\n\n`-`: not asked (a fault of the library is not in the files), it cannot be made of "
        f"that model, or the run refuses it before anything is judged.\n\n"
        f"| fault | layer | injected | {' | '.join(COLUMNS)} |\n|---|---|---|---|---|---|\n"
    )
    parts += [_line(one) for one in rows]
    return "".join(parts)


def _line(one: Row) -> str:
    cells = (
        one.fault,
        one.layer,
        f"{one.code} at {where(*one.injected)}",
        *(one.cells[column] for column in COLUMNS),
    )
    return f"| {' | '.join(cells)} |\n"


def read(text: str) -> list[Row]:
    """The rows that a page holds."""
    found = []
    for name, layer, injected, *cells in _ROW.findall(text):
        if match := re.match(r"(\S+) at ([^:]+)(?:: (.*))?$", injected):
            component = None if match[2] == "the pipeline" else match[2]
            place = Place(component, match[3])
            found.append(Row(name, layer, match[1], place, dict(zip(COLUMNS, cells, strict=True))))
    return found


def share(rows: Sequence[Row], column: str) -> tuple[int, int]:
    """In how many rows the first cause names the place, of how many."""
    asked = [one.named(column) for one in rows if one.named(column) is not None]
    return sum(map(bool, asked)), len(asked)


def _shares(rows: Sequence[Row]) -> Iterator[str]:
    yield f"| layer | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}\n"
    for layer in LAYERS:
        of_layer = [one for one in rows if one.layer == layer]
        if of_layer:
            yield f"| {layer} | {' | '.join(_part(*share(of_layer, column)) for column in COLUMNS)} |\n"
    whole = [share(rows, column) for column in COLUMNS]
    yield f"| **all** | {' | '.join(f'**{_part(*one)}** ({one[0] / one[1]:.1%})' for one in whole)} |\n"
    asked = [one for one in rows if one.named("every claim") is not None]
    codes = sum(one.said("every claim")[0] == one.code for one in asked)
    yield (
        f"\nWith every claim the first cause also carries the code under which the fault is known in {codes} of "
        f"{len(asked)}.\n"
    )


def _part(named: int, asked: int) -> str:
    return f"{named} of {asked}" if asked else "-"


def _otherwise(rows: Sequence[Row]) -> Iterator[str]:
    yield "\n### Named otherwise\n\n| fault | injected | asked | said |\n|---|---|---|---|\n"
    for one in rows:
        for column in COLUMNS:
            if one.named(column) is False:
                said = one.cells[column].removeprefix("no: ")
                yield f"| **{one.fault}** | {one.code} at {where(*one.injected)} | {column} | {said} |\n"


def _confusion(rows: Sequence[Row]) -> Iterator[str]:
    """Injected against said, by component and by stage, with every claim."""
    yield "\n### Confusion\n\nEvery claim, every caught fault: rows are what was injected, columns what the first "
    yield "cause says. `pipeline` is a fault of no component alone.\n"
    rows = [one for one in rows if one.named("every claim") is not None]
    components = Counter(
        (one.injected.component or "pipeline", _component(one.said("every claim"))) for one in rows
    )
    yield from _matrix("component", components)
    stages = Counter((_stage(one.code), _stage(one.said("every claim")[0])) for one in rows)
    order = [stage.name for stage in STAGES]
    yield from _matrix("stage", stages, order)


def _component(said: tuple[str | None, str | None]) -> str:
    code, component = said
    return "nothing" if code is None else component or "pipeline"


def _stage(code: str | None) -> str:
    return "nothing" if code is None else STAGES[stage_of(code)].name


def _matrix(title: str, counts: Counter[tuple[str, str]], order: Sequence[str] = ()) -> Iterator[str]:
    def place(name: str) -> tuple[bool, int, str]:
        return name == "nothing", order.index(name) if name in order else len(order), name

    injected = sorted({pair[0] for pair in counts}, key=place)
    said = sorted({pair[1] for pair in counts}, key=place)
    yield f"\n| {title} | {' | '.join(said)} |\n|---|{'---:|' * len(said)}\n"
    for one in injected:
        cells = (str(counts[one, other]) if counts[one, other] else "" for other in said)
        yield f"| {one} | {' | '.join(cells)} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--new", action="store_true", help="run only the faults that the page does not know")
    parser.add_argument("--records", type=Path, metavar="FOLDER", help="keep verdicts there, and take them")
    given = parser.parse_args()
    faults = caught()
    known = {one.fault: one for one in read(PAGE.read_text("utf-8"))} if given.new else {}
    with tempfile.TemporaryDirectory() as folder, quiet():
        bench = Bench(Path(folder), given.records)
        rows = []
        for number, fault in enumerate(faults, start=1):
            if fault.name not in known:
                print(f"{number} of {len(faults)}: {fault.name}", flush=True)
            rows.append(known.get(fault.name) or row(bench, fault))
        bench.close()
        text = page(rows, pairs(Path(folder)), controls(Path(folder)))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
