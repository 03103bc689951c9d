"""Write the measurements of docs/causes.md: `python -m tools.causes_page` (about twenty minutes on one core).

`--new` runs only the faults that the page does not know yet, and keeps what it says of the others: enough where a
fault was added. `--records FOLDER` keeps the verdicts there, and takes those that it finds: enough where a relation
has changed. Where a claim has changed, all of it is run.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pytest_genmodel.diagnosis.causes.stages import STAGES, stage_of
from pytest_genmodel.faults.registry import LAYERS, Place
from pytest_genmodel.pipelines.library import quiet
from tools.causes_bench import COLUMNS, Bench, Row, caught, controls, pairs, row, where

PAGE = Path(__file__).resolve().parent.parent / "docs" / "causes.md"
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
