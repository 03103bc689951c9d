"""The JSON report: what the schema says, for every kind of outcome."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import pytest

from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped
from pytest_genmodel.reports.report import SCHEMA_FILE, Report
from pytest_genmodel.whole_file import can_be_written, write_whole

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


def test_a_link_stays_and_its_file_is_written(tmp_path):
    (tmp_path / "kept").mkdir()
    link = tmp_path / "report.json"
    link.symlink_to(Path("kept") / "real.json")

    for text in ("new", b"newer"):
        write_whole(link, text)

    assert link.is_symlink()
    assert (tmp_path / "kept" / "real.json").read_bytes() == b"newer"
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["kept", "real.json", "report.json"]


def test_a_pipe_takes_the_content_and_stays_a_pipe(tmp_path):
    """`--genmodel-json=/dev/null`, as root: putting a file in its place would break the machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert can_be_written(pipe)
        write_whole(pipe, "content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_a_place_is_known_before_anything_is_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert can_be_written(tmp_path / "new" / "folders" / "report.json")
    assert can_be_written(tmp_path / "file")
    assert not can_be_written(tmp_path)
    assert not can_be_written(tmp_path / "file" / "report.json")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file"]
