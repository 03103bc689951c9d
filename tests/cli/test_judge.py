"""`genmodel judge`: the summary and the exit status of a run, without a model."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema
import pytest

from pytest_genmodel.reports.report import SCHEMA_FILE
from tests.runs.runs import compared, finding, sample, saved


@pytest.fixture
def run(tmp_path):
    return saved(
        tmp_path / "run", compared(sample(0.25, step=2), sample()), findings=[finding("GM307", "warning")]
    )


def test_a_run_as_it_was(genmodel, run):
    done = genmodel("judge", run.path)

    assert done.status == 1
    assert "out/run-17: 1 failed" in done.out
    assert "GM501" in done.out
    assert "every verdict is as the run gave it" in done.out


def test_another_policy_says_what_it_changes_and_writes_the_report(genmodel, run, tmp_path):
    done = genmodel(
        "judge",
        run.path,
        "--tolerance",
        "close(atol=0.3)",
        "--json",
        tmp_path / "r.json",
        "--report",
        tmp_path / "r.html",
    )

    assert done.status == 0
    assert "genmodel::sampling::seeded_sampling: failed -> passed" in done.out
    report = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(report, json.loads(SCHEMA_FILE.read_text()))
    assert report["summary"] == {"passed": 1, "failed": 0, "skipped": 0, "inconclusive": 0}
    assert report["verdicts"][0]["parameters"] == {"tolerance": "close(atol=0.3)"}
    assert "GM307" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--tolerance", "seeded_sampling=psnr:10"], 0),
        (["--tolerance", "psnr:10", "--strict"], 1),
        (["--tolerance", "psnr:10", "--strict", "--allow", "GM307: known"], 0),
        (["--tolerance", "ulp:1"], 1),
        (["--allow", "GM501: our kernel does that", "-q"], 0),
    ],
)
def test_exit_status_is_that_of_the_run_under_the_policy(genmodel, run, options, status):
    assert genmodel("judge", run.path, *options).status == status


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere"], "there is no saved run"),
        (["RUN", "--tolerance", "exact"], "--tolerance=exact: unknown tolerance"),
        (["RUN", "--tolerance", "coverage=psnr:40"], "no sample was compared by 'coverage'"),
        (["RUN", "--allow", "GM307"], "--allow=GM307"),
        (["RUN", "--json", "RUN"], "RUN"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(genmodel, run, monkeypatch, options, said):
    monkeypatch.chdir(run.path.parent)

    done = genmodel("judge", *("run" if option == "RUN" else option for option in options))

    assert done.status == 2
    assert said.replace("RUN", "run") in done.err
    assert len(done.err.splitlines()) == 1


def test_a_saved_run_is_a_report_too(genmodel, run, tmp_path):
    assert genmodel("report", run.path, "-o", tmp_path / "page.html").status == 0
    assert "seeded_sampling" in (tmp_path / "page.html").read_text()


def test_no_model_and_no_torch_is_loaded(run):
    code = (
        "import sys; from pytest_genmodel.cli.main import main; "
        f"status = main(['judge', {str(run.path)!r}, '--tolerance', 'psnr:10']); "
        "print(status, sorted({'torch', 'diffusers', 'transformers', 'pytest'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "0 []"
