"""--genmodel-report: the page of a run, from one process or several, and the options that come back from it."""

from __future__ import annotations

import json
import stat

import jsonschema
import pytest

from pytest_genmodel.reports.report import SCHEMA_FILE
from pytest_genmodel.settings import Settings, spelled
from tests.editing import TO_Q, TRANSFORMER

ITEMS = "same_weights or sound_video"


@pytest.fixture
def damaged(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / TRANSFORMER)
    tensors[TO_Q] *= 3
    save_file(tensors, copy / TRANSFORMER)
    return copy


def test_page_shows_findings_and_both_videos(run, pytester, damaged, report):
    run(
        f"--genmodel-ckpt={damaged}",
        "--genmodel-ref={healthy}",
        "--genmodel-expect=identical",
        "--genmodel-report=deep/er/report.html",
        "--genmodel-json=report.json",
        "-k",
        ITEMS,
        candidate=False,
    )

    page = (pytester.path / "deep/er/report.html").read_text(encoding="utf-8")
    assert "copy fails" in page
    assert (
        page.count("data:image/webp;base64,") == 4
    )  # reference, candidate, difference; all of them animated
    assert "genmodel::checkpoint::same_weights" in page
    [sample] = report()["samples"]
    jsonschema.validate(report(), json.loads(SCHEMA_FILE.read_text()))
    assert sample["pictures"] is None
    assert len(sample["psnr"]) == sample["frames"] > 1
    assert min(map(float, sample["psnr"])) < 60
    drift = [v["measurements"] for v in report()["verdicts"] if v["invariant"] == "same_weights"]
    assert list(drift[0]["drift_by_layer"]["transformer"]) == ["transformer_blocks.0"]
    assert stat.S_IMODE((pytester.path / "deep/er/report.html").stat().st_mode) & 0o400
    assert [entry.name for entry in (pytester.path / "deep/er").iterdir()] == ["report.html"]


def test_workers_send_what_they_sampled(run, pytester, damaged):
    pytest.importorskip("xdist")

    run(
        *("-n", "1"),
        f"--genmodel-ckpt={damaged}",
        "--genmodel-ref={healthy}",
        "--genmodel-report=report.html",
        "-k",
        ITEMS,
        candidate=False,
        subprocess=True,
    )

    page = (pytester.path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") == 4
    assert page.count('<tr class="') == 2


def test_candidate_alone_is_shown_alone(run, pytester):
    run("--genmodel-report=report.html", "-k", "seeded_sampling")

    page = (pytester.path / "report.html").read_text(encoding="utf-8")
    assert "cogvideox-i2v passes" in page
    assert "There is no sample of the reference with the same inputs" in page
    assert page.count("data:image/webp;base64,") == 2


def test_place_that_cannot_be_written_is_refused_before_the_run(run, pytester):
    (pytester.path / "file").write_text("")

    result = run("--genmodel-report=file/report.html", "-k", "coverage")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --genmodel-report=file/report.html: cannot be written there"])


def test_missing_jinja_is_said_before_the_run(run, monkeypatch):
    from pytest_genmodel.reports.html import page

    monkeypatch.setattr(page, "find_spec", lambda name: None)

    result = run("--genmodel-report=report.html", "-k", "coverage")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*needs jinja2: pip install 'pytest-genmodel?report?'"])


def test_nothing_is_filmed_where_no_page_was_asked_for(run, monkeypatch):
    from pytest_genmodel.reports.html.footage import Filming

    monkeypatch.setattr(Filming, "new", lambda self: pytest.fail("filmed"))

    run("-k", "seeded_sampling").assert_outcomes(passed=1)


def test_command_makes_the_page_again_without_the_videos(run, pytester, healthy):
    from pytest_genmodel.cli.main import main

    run("--genmodel-json=report.json", "--genmodel-report=first.html", "-k", "seeded_sampling")

    assert main(["report", "report.json", "-o", "again.html"]) == 0
    again = (pytester.path / "again.html").read_text(encoding="utf-8")
    assert "cogvideox-i2v passes" in again
    assert "The videos are left out: the JSON report does not hold them" in again


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is no JSON"),
        ("[]", "is no report of --genmodel-json"),
        ('{"schema": 9, "verdicts": [], "candidates": []}', "has schema 9, and 1 can be read"),
        ('{"schema": 1, "verdicts": [], "candidates": []}', "is no whole report"),
        ('{"schema": 1, "verdicts": [3], "candidates": [{"label": "x"}]}', "is no whole report"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(pytester, capsys, text, complaint):
    from pytest_genmodel.cli.main import main

    (pytester.path / "bad.json").write_text(text)

    assert main(["report", "bad.json", "-o", "page.html"]) == 2
    written = capsys.readouterr().err
    assert complaint in written
    assert written.count("\n") == 1
    assert not (pytester.path / "page.html").exists()


def test_options_are_spelled_as_they_can_be_given():
    settings = Settings(
        candidates=("a", "b c"),
        reference="base",
        level="full",
        size=(720, 480),
        ladder=(0.0, 1e-9, 1e-7),
        suite=False,
        strict=True,
        json="report.json",
        report="report.html",
    )

    assert set(spelled(settings)) == {
        "--genmodel-ckpt=a",
        "--genmodel-ckpt=b c",
        "--genmodel-ref=base",
        "--genmodel-level=full",
        "--genmodel-size=720x480",
        "--genmodel-lr-ladder=0,1e-09,1e-07",
        "--genmodel-no-suite",
        "--genmodel-strict",
    }
    assert spelled(Settings()) == ()


def test_view_that_cannot_be_made_costs_neither_the_others_nor_the_summary(run, pytester, monkeypatch):
    def broken(self, path):
        raise TypeError("no such figure")

    monkeypatch.setattr("pytest_genmodel.reports.report.Report.write_html", broken)
    result = run("--genmodel-report=out.html", "--genmodel-json=out.json", "-k", "sound_weights")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert (pytester.path / "out.json").exists()
    result.stdout.fnmatch_lines(
        ["*= genmodel =*", "*1 passed*", "*could not be made (TypeError: no such figure)*"]
    )
