"""The committed reports of the founding incident: whole, small, of no machine, and as the code writes them today."""

from __future__ import annotations

import getpass
import json
import platform
import re
import socket
from pathlib import Path

import jsonschema
import pytest

from pytest_genmodel.reports.markdown import markdown
from pytest_genmodel.reports.report import SCHEMA_FILE
from pytest_genmodel.reports.sarif import sarif
from tools.examples import CANDIDATE, NAME, OUT, TERMINAL, VIEWS

FILES = (TERMINAL, *VIEWS.values())
AGAIN = "run: python -m tools.examples"


@pytest.fixture(scope="module")
def document():
    return json.loads((OUT / VIEWS["json"]).read_text())


@pytest.mark.parametrize("name", FILES)
def test_file_is_small_and_names_no_machine(name):
    text = (OUT / name).read_text(encoding="utf-8")

    assert 500 < len(text.encode()) < 2_000_000
    roots = ("root", "home", "tmp", "work", "usr", "Users", "var", "opt", "mnt", "private")
    assert not re.findall(rf"(?<![\w.:/}}])/(?:{'|'.join(roots)})/[\w.-]+", text)
    for machine in (str(Path.cwd()), str(Path.home()), socket.gethostname(), platform.release()):
        assert machine not in text
    assert len(getpass.getuser()) < 3 or f"/{getpass.getuser()}/" not in text


def test_report_is_of_this_schema_and_leads_with_the_cause(document):
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text()))

    [cause] = document["causes"]
    assert (cause["code"], cause["component"], cause["confidence"]) == ("GM203", "transformer", "certain")
    assert cause["location"] == "transformer_blocks.0.attn1.to_q.weight"
    assert document["candidate"]["spec"] == CANDIDATE
    assert document["complete"]


def test_terminal_says_what_the_report_says(document):
    text = (OUT / TERMINAL).read_text()

    assert text.startswith("$ pytest -q --genmodel-ckpt=")
    assert text.index("root cause, certain:\nGM203 ") < text.index("ruled out: ")
    said = ", ".join(f"{number} {outcome}" for outcome, number in document["summary"].items() if number)
    assert f"{CANDIDATE}: {said} (" in text


def test_page_shows_the_cause():
    page = (OUT / VIEWS["report"]).read_text()

    assert f"{NAME} fails" in page
    assert "GM203" in page


def test_summary_is_as_it_is_written_today(document, tmp_path):
    assert (OUT / VIEWS["summary"]).read_text() == markdown(document, tmp_path), AGAIN


def test_findings_for_machines_are_as_they_are_written_today(document, tmp_path):
    """But for the files, which lay there when the example was made."""
    stored, now = (
        json.loads(text)["runs"][0]
        for text in ((OUT / VIEWS["sarif"]).read_text(), sarif(document, tmp_path))
    )
    for run in (stored, now):
        for result in run["results"]:
            [location] = result["locations"]
            assert location.pop("physicalLocation")["artifactLocation"]["uri"].startswith((CANDIDATE, NAME))
    assert stored["results"] == now["results"], AGAIN

    issues = json.loads((OUT / VIEWS["code-quality"]).read_text())
    weights = f"{CANDIDATE}/transformer/diffusion_pytorch_model.safetensors"
    assert (issues[0]["check_name"], issues[0]["location"]["path"]) == ("GM203", weights)
