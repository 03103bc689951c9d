"""The section at the end of a terminal run: the cause first, symptoms in a line, nothing hidden."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pytest_genmodel.reports.report import Report
from pytest_genmodel.reports.terminal import MOST_CAUSES, MOST_REASONS, NARROWEST, write_summary
from tests.reports.documents import document, finding, verdict


class Terminal:
    """What `write_summary` needs of pytest's reporter."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.config = self
        self.isatty, self._screen_width = False, 80

    def get_terminal_writer(self) -> Any:
        self._file = sys.stdout
        return self

    def write_sep(self, mark: str, title: str) -> None:
        self.lines.append(f"{mark} {title}")

    def write_line(self, line: str, **_: Any) -> None:
        self.lines.append(line)


def summary(*verdicts: dict[str, Any], columns: int | None = None) -> str:
    value = document()
    terminal = Terminal()
    if columns is not None:
        terminal.isatty, terminal._screen_width = True, columns
    write_summary(terminal, Report(value["candidates"], None, list(verdicts)))
    return "\n".join(terminal.lines)


def weight(component: str, code: str = "GM301", **changes: Any) -> dict[str, Any]:
    told = {"location": "a.weight", "message": "it is another", **changes}
    return finding(code, component=component, **told)


def test_cause_leads_and_symptoms_are_a_line():
    video = finding("GM920", component=None, location="frame 5", message="noise in frame 5")

    said = summary(
        verdict("sound_video", "failed", findings=[video]),
        verdict("coverage", "failed", findings=[finding()], replay="pytest --genmodel-ckpt=x y"),
    )

    assert (
        "root cause, certain:\nGM203 what GM203 is (error)\n  where:  transformer: transformer_blocks.0"
        in said
    )
    assert "explains: GM920 what GM920 is (the sample is made with it)" in said
    assert "  found:  by coverage\n" in said
    assert "  replay: pytest --genmodel-ckpt=x y" in said
    assert "noise in frame 5" not in said, "the failure itself tells it"


@pytest.mark.parametrize(("columns", "expected"), [(None, 100), (300, 100), (72, 72), (20, NARROWEST)])
def test_text_is_no_wider_than_the_terminal_and_a_file_has_no_width(columns, expected):
    words = "it is another " * 20
    found = [
        *(weight("vae", message=words, cause=words, action=words), weight("unet", "GM401", message=words)),
        weight("vae", "GM213", severity="note", message=words),
    ]

    said = summary(
        verdict("same_weights", "failed", findings=found),
        verdict("sound_video", "inconclusive", reason=words),
        verdict("coverage", "skipped", reason=words),
        columns=columns,
    )

    widest = max(map(len, said.splitlines()[2:]))
    assert expected - 15 < widest <= expected


def test_further_causes_are_said_in_a_line_each():
    names = [f"part_{number}" for number in range(MOST_CAUSES + 2)]

    said = summary(verdict("same_weights", "failed", findings=[weight(name) for name in names]))

    assert said.count("root cause ") == MOST_CAUSES
    for name in names[MOST_CAUSES:]:
        assert f"  and: GM301 what GM301 is at {name}: a.weight (error, certain)" in said


def test_codes_of_many_reasons_are_all_said():
    codes = ["GM901", "GM904", "GM910", "GM912", "GM504", "GM920", "GM703", "GM108", "GM960"]
    symptoms = [finding(code, component="text_encoder", location="prompt") for code in codes]

    said = summary(
        verdict("same_weights", "failed", findings=[weight("text_encoder")]),
        verdict("sound_video", "failed", findings=symptoms),
    )

    assert said.count("root cause") == 1
    assert all(code in said for code in codes)
    explained = said.partition("explains: ")[2].partition("\n\n")[0]
    assert explained.count("(") <= MOST_REASONS


def test_other_places_are_named_and_counted():
    places = [f"config.json:key_{number}" for number in range(6)]
    keys = [finding("GM401", component="vae", location=place, message=place) for place in places]

    said = " ".join(summary(verdict("same_config", "failed", findings=keys)).split())

    assert (
        "found: by same_config; also at config.json:key_1, config.json:key_2, config.json:key_3 and 2 more"
        in said
    )


def test_claims_without_a_verdict_stand_once():
    reason = "transformer does not load"

    said = summary(
        verdict("coverage", "failed", findings=[finding()]),
        verdict("seeded_sampling", "inconclusive", reason=reason),
        verdict("sound_video", "inconclusive", reason="no memory"),
    )

    assert "leaves unjudged: seeded_sampling (each needs what is damaged)" in said
    assert "inconclusive: sound_video: no memory" in said
    assert reason not in said


@pytest.mark.parametrize("severity", ["warning", "note"])
def test_run_that_passes_has_no_root_cause(severity):
    said = summary(verdict("sound_weights", findings=[weight("vae", "GM803", severity=severity)]))

    assert "GM803" in said
    assert "root cause" not in said
    assert "ruled out" not in said


def test_names_do_nothing_to_the_terminal():
    hostile = "a\x1b[2J\u202eb"

    said = summary(
        verdict(
            "same_weights",
            "failed",
            findings=[
                weight(hostile),
                weight(hostile, "GM904"),
                *(weight(f"{hostile}{n}") for n in range(4)),
            ],
        )
    )

    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "\\x1b[2J" in said
