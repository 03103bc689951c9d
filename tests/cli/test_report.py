"""`genmodel report`: a saved run in another form, by the file's ending or by name."""

from __future__ import annotations

import json

import pytest

from tests.reports.documents import document


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps(document()))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("page.html", "<!doctype html>"),
        ("PAGE.HTM", "<!doctype html>"),
        ("summary.md", "## `run-17` fails"),
        ("run.sarif", '{\n  "$schema"'),
        ("run.sarif.json", '{\n  "$schema"'),
        ("gl-code-quality-report.json", '[\n  {\n    "description"'),
    ],
)
def test_the_ending_says_what_is_written(genmodel, saved, name, start):
    done = genmodel("report", "report.json", "-o", f"deep/{name}")

    assert (done.status, done.err) == (0, "")
    assert (saved / "deep" / name).read_text().lower().startswith(start.lower())


def test_the_name_wins_over_the_ending(genmodel, saved):
    genmodel("report", "report.json", "--as=annotations", "-o", "run.md")

    assert (saved / "run.md").read_text().startswith("::error title=GM920 ")


def test_a_view_goes_to_stdout(genmodel, saved):
    done = genmodel("report", "-q", "report.json", "--as=sarif", "-o", "-")

    assert (done.status, done.err) == (0, "")
    assert done.json["version"] == "2.1.0"
    assert [path.name for path in saved.iterdir()] == ["report.json"]


@pytest.mark.parametrize("name", ["-", "report", "report.xml"])
def test_what_is_not_said_is_asked_for(genmodel, saved, name):
    done = genmodel("report", "report.json", "-o", name)

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"genmodel: {name}: say what is to be written (--as html, sarif, ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["sarif", "code-quality", "summary", "annotations"])
@pytest.mark.parametrize("verdicts", [[3], [{"candidate": "run-17"}], {"a": 1}])
def test_what_is_no_report_is_refused_in_one_line(genmodel, saved, kind, verdicts):
    (saved / "bad.json").write_text(json.dumps({**document(), "verdicts": verdicts}))

    done = genmodel("report", "bad.json", f"--as={kind}", "-o", "view")

    assert done.status == 2
    assert "bad.json: is no whole report" in done.err
    assert done.err.count("\n") == 1
    assert not (saved / "view").exists()
