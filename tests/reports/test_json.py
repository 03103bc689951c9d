"""The JSON report: what the schema says, for every kind of outcome."""

from __future__ import annotations

import json

import jsonschema
import pytest

from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped
from pytest_genmodel.reports.report import SCHEMA_FILE, Report

SCHEMA = json.loads(SCHEMA_FILE.read_text())


def test_schema_is_itself_valid():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_healthy_run_validates(run, report):
    run("--genmodel-json=report.json", "-k", "coverage or same_weights")

    value = report()
    jsonschema.validate(value, SCHEMA)
    assert value["summary"] == {"passed": 1, "failed": 0, "skipped": 1, "inconclusive": 0}
    assert value["candidate"]["label"] == "cogvideox-i2v"
    assert value["environment"]["packages"]["torch"]
    assert value["verdicts"][0]["id"] == "genmodel::checkpoint::coverage"


def test_failing_run_of_two_candidates_validates(run, pytester, healthy, tmp_path):
    incident = adapter_wrapped(healthy, tmp_path / "incident")

    run(
        "--genmodel-json=deep/er/report.json",
        f"--genmodel-ckpt={incident}",
        "--genmodel-ref={healthy}",
        "-k",
        "checkpoint or seeded",
    )

    value = json.loads((pytester.path / "deep/er/report.json").read_text())
    jsonschema.validate(value, SCHEMA)
    assert value["candidate"] is None
    assert [candidate["label"] for candidate in value["candidates"]] == ["cogvideox-i2v", "incident"]
    assert value["summary"] == {"passed": 11, "failed": 2, "skipped": 0, "inconclusive": 1}
    [first] = [v for v in value["verdicts"] if v["outcome"] == "failed" and v["invariant"] == "coverage"]
    assert first["findings"][0]["code"] == "GM203"


def test_interrupted_write_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    broken = Report(candidates=[], reference=None, environment={"x": float("nan")})

    with pytest.raises(ValueError, match="JSON"):
        broken.write_json(path)

    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]
