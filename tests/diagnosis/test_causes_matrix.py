"""The first cause against injected faults: measured here on the faults of files, and the page's table is in order."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from pytest_genmodel.faults.registry import LAYERS, all_faults
from tools.causes_bench import COLUMNS, MODEL, Bench, Row, caught, controls, pairs
from tools.causes_page import PAGE, read, share

ENOUGH = 0.9
FILES = [
    fault
    for fault in caught()
    if fault.kind != "environment" and (fault.level, fault.model) == ("static", MODEL)
][::2]
"""Every second one, to stay within seconds; the page holds them all."""


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return read(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    yield bench
    bench.close()


def test_first_cause_names_place_of_faults_in_files_and_the_page_says_the_same(bench, rows):
    told = {row.fault: row.cells["files"] for row in rows}
    named, asked, other = 0, 0, {}

    for fault in FILES:
        if (answer := bench.ask(fault, "static")) is None:
            assert told.get(fault.name, "-") == "-"
            continue
        said, _ = answer
        asked += 1
        named += said.named
        if told.get(fault.name, said.cell) != said.cell:
            other[fault.name] = (told[fault.name], said.cell)

    assert asked > 45
    assert named / asked >= ENOUGH
    assert other == {}, "run python -m tools.causes_page"


def test_two_damages_lead_a_cause_each(tmp_path):
    seen, both, otherwise = pairs(tmp_path, 12)

    assert seen == 12
    assert both / seen >= ENOUGH, otherwise


def test_healthy_models_have_no_cause(tmp_path):
    said = controls(tmp_path)

    assert len(said) > 10
    assert set(said.values()) == {0}


def test_page_knows_every_caught_fault(rows):
    missing = {fault.name for fault in caught()} - {row.fault for row in rows}
    gone = {row.fault for row in rows} - set(all_faults())
    assert (missing, gone) == (set(), set()), "run python -m tools.causes_page --new"


def test_enough_is_named_with_every_claim(rows):
    for column in COLUMNS:
        named, asked = share(rows, column)
        assert asked > 90
        assert named / asked >= ENOUGH


def test_tables_of_the_page_are_sums_of_its_rows(rows):
    text = PAGE.read_text(encoding="utf-8")

    for layer in LAYERS:
        of_layer = [row for row in rows if row.layer == layer]
        if of_layer:
            cells = [f"{named} of {asked}" if asked else "-" for named, asked in _shares(of_layer)]
            assert f"| {layer} | {' | '.join(cells)} |" in text
    assert (
        "| **all** | "
        + " | ".join(f"**{named} of {asked}** ({named / asked:.1%})" for named, asked in _shares(rows))
        in text
    )
    otherwise = sum(row.named(column) is False for row in rows for column in COLUMNS)
    assert len(re.findall(r"^\| \*\*(?!all)[a-z]", text, re.MULTILINE)) == otherwise


@pytest.mark.parametrize("title", ["component", "stage"])
def test_confusion_counts_every_fault_once(rows, title):
    head, body = _matrix(title)
    asked = [row for row in rows if row.named("every claim") is not None]

    assert sum(sum(counts) for counts in body.values()) == len(asked)
    diagonal = sum(dict(zip(head, counts, strict=True)).get(name, 0) for name, counts in body.items())
    assert diagonal / len(asked) >= ENOUGH


def _shares(rows: list[Row]) -> list[tuple[int, int]]:
    return [share(rows, column) for column in COLUMNS]


def _matrix(title: str) -> tuple[list[str], dict[str, list[int]]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith(f"| {title} | "))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table[0][1:], {row[0]: [int(cell or 0) for cell in row[1:]] for row in table[2:]}
