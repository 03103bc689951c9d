"""Views for machines: files that are asked for, GitHub's annotations and summary, JUnit's properties."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from tests.editing import TO_Q, TRANSFORMER, edit_json, edit_tensors

SCHEDULER = "scheduler/scheduler_config.json"
WHAT = ("--genmodel-level=static", "-k", "same_config or sound_schedule")


@pytest.fixture(autouse=True)
def _outside_of_ci(monkeypatch):
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE", "CI_PROJECT_DIR", "WORKSPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wrong(copy, pytester):
    """A candidate in the repository whose schedule says another prediction type."""
    edit_json(copy / SCHEDULER, prediction_type="epsilon")
    config = json.loads((copy / SCHEDULER).read_text())
    (copy / SCHEDULER).write_text(json.dumps(config, indent=2))
    return copy.rename(pytester.path / "run-17")


def line_of_key(checkpoint):
    lines = (checkpoint / SCHEDULER).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if '"prediction_type"' in line)


def judge(run, *arguments, **how):
    return run(
        "--genmodel-ckpt=run-17", "--genmodel-ref={healthy}", *WHAT, *arguments, candidate=False, **how
    )


def test_every_view_is_written_where_it_is_asked_for(run, pytester, wrong):
    judge(
        run,
        "--genmodel-sarif=deep/er/report.sarif",
        "--genmodel-code-quality=quality.json",
        "--genmodel-summary=summary.md",
    )

    [result, *_] = json.loads((pytester.path / "deep/er/report.sarif").read_text())["runs"][0]["results"]
    [issue, *_] = json.loads((pytester.path / "quality.json").read_text())
    region = result["locations"][0]["physicalLocation"]["region"]
    assert (result["ruleId"], issue["check_name"]) == ("GM401", "GM401")
    assert region["startLine"] == issue["location"]["lines"]["begin"] == line_of_key(wrong)
    assert issue["location"]["path"] == f"run-17/{SCHEDULER}"
    summary = (pytester.path / "summary.md").read_text()
    assert summary.startswith("## `run-17` fails\n")
    assert "### GM401" in summary


def test_github_is_told_by_itself(run, pytester, wrong, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))

    result = judge(run, "-q")

    result.stdout.fnmatch_lines(
        [f"::error file=run-17/{SCHEDULER},line={line_of_key(wrong)},title=GM401 *::scheduler: *%0Aaction: *"]
    )
    assert (tmp_path / "step.md").read_text().startswith("## `run-17` fails\n")


def test_nobody_else_is_told(run, wrong):
    judge(run).stdout.no_fnmatch_line("::*")


@pytest.mark.parametrize(("option", "told"), [("none", False), ("github", True)])
def test_the_option_decides(run, wrong, monkeypatch, option, told):
    monkeypatch.setenv("GITHUB_ACTIONS", "false" if told else "true")

    result = judge(run, f"--genmodel-annotations={option}")

    assert any(line.startswith("::error ") for line in result.outlines) is told


def test_a_wrong_value_is_one_line(run):
    result = run("--genmodel-annotations=gitlab")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --genmodel-annotations=gitlab: expected one of auto, github, none"])


@pytest.mark.parametrize("name", ["sarif", "code-quality", "summary"])
def test_a_place_that_cannot_be_written_is_refused_before_the_run(run, pytester, name):
    (pytester.path / "file").write_text("")

    result = run(f"--genmodel-{name}=file/report", *WHAT)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --genmodel-{name}=file/report: cannot be written there"])


def test_a_summary_that_cannot_be_written_is_said_and_fails_nothing(run, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))  # a folder

    result = run(*WHAT)

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["the job summary could not be written (*)"])


def test_collecting_writes_nothing(run, monkeypatch, tmp_path, pytester):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))

    run("--collect-only", "--genmodel-sarif=report.sarif").stdout.no_fnmatch_line("::*")

    assert not (tmp_path / "step.md").exists()
    assert not (pytester.path / "report.sarif").exists()


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_junit_says_code_and_place(run, pytester, wrong, workers):
    judge(run, *workers, "--junitxml=junit.xml", "--genmodel-sarif=report.sarif", subprocess=bool(workers))

    cases = {
        case.get("name"): {one.get("name"): one.get("value") for one in case.iter("property")}
        for case in ElementTree.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    }
    said = next(value for name, value in cases.items() if name.endswith("same_config"))
    seconds = said.pop("genmodel.seconds")
    assert float(seconds) >= 0
    assert said == {
        "genmodel.candidate": "run-17",
        "genmodel.invariant": "same_config",
        "genmodel.outcome": "failed",
        "genmodel.codes": "GM401",
        "genmodel.code": "GM401",
        "genmodel.severity": "error",
        "genmodel.component": "scheduler",
        "genmodel.location": "scheduler_config.json:prediction_type",
        "genmodel.message": "prediction_type is 'epsilon'; the reference's is 'v_prediction'",
    }
    assert len(cases) == 2
    assert (pytester.path / "report.sarif").exists()


def test_a_name_in_a_file_is_no_command_of_the_runner(run, pytester, copy, monkeypatch):
    """The runner acts on `::` where a line begins, behind any white space, and on `##[` anywhere."""
    evil = (
        "x ::add-mask::a\n::stop-commands::b\r\n  ::error::fake ##[stop-commands]c "
        + "word " * 30
        + "::error::d"
    )
    edit_tensors(copy / TRANSFORMER, lambda tensors: {**tensors, evil: tensors[TO_Q].clone()})
    copy.rename(pytester.path / "run-17")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    what = ("--genmodel-level=static", "-k", "coverage or same_weights", "-ra")

    result = run("--genmodel-ckpt=run-17", "--genmodel-ref={healthy}", *what, candidate=False)

    commands = [
        line for line in result.outlines + result.errlines if line.lstrip().startswith("::") or "##[" in line
    ]
    assert {line.partition(",")[0] for line in commands} == {f"::error file=run-17/{TRANSFORMER}"}
    assert len(commands) == 2
    assert "stop-commands" in result.stdout.str()
