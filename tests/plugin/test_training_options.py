"""The options around a trainer of the user's own: their values, what stays of a run, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.small_trainer import SAVE, write

ZERO_ONLY = ("-k", "zero_lr")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--genmodel-zero-lr=1e-30", "expected a number that is zero in float32: 0, or 1e-46"),
        ("--genmodel-zero-lr=small", "expected a number that is zero in float32"),
        ("--genmodel-zero-lr=-1e-46", "expected a number that is zero in float32"),
        ("--genmodel-zero-lr=nan", "expected a number that is zero in float32"),
        ("--genmodel-train-result=../elsewhere", "expected a result"),
        ("--genmodel-train-result=checkpoint-{step}", "expected a result"),
        ("--genmodel-train-cmd=train {reference} {output}", "does not say where {lr} goes"),
        ("--genmodel-train-cmd=train {refrence} {output} {lr}", "did you mean {reference}?"),
    ],
)
def test_wrong_value_is_a_usage_error_of_one_line(run, option, said):
    result = run(option)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    [line] = [line for line in result.errlines if line.startswith("ERROR")]
    assert option.partition("=")[0] in line
    assert said in line


def test_program_that_is_not_there_is_said_in_one_line(run):
    result = run("--genmodel-train-cmd=no-such-trainer {reference} {output} {lr}", *ZERO_ONLY)

    result.stdout.fnmatch_lines(["*the training command does not start: no-such-trainer: No such file*"])
    assert "Traceback" not in result.stdout.str()


def test_last_lines_of_a_failed_run_are_a_section_of_the_report(run, pytester):
    command = write(
        pytester.path, ("# begin", "print('about to fail'); raise RuntimeError('as it was told')")
    )

    result = run(f"--genmodel-train-cmd={command}", *ZERO_ONLY)

    result.stdout.fnmatch_lines(
        ["*Captured output of the trainer at lr 0 setup*", "about to fail", "*RuntimeError: as it was told*"]
    )


def test_passing_run_shows_nothing_of_the_trainer(run, pytester):
    command = write(pytester.path, ("# begin", "print('all is well')"))

    result = run(f"--genmodel-train-cmd={command}", *ZERO_ONLY)

    result.assert_outcomes(passed=1, deselected=result.parseoutcomes()["deselected"])
    assert "all is well" not in result.stdout.str()


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """An empty folder in which everything temporary of the run is made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_work_files_go_with_the_run(run, pytester, temporary):
    run(f"--genmodel-train-cmd={write(pytester.path)}", *ZERO_ONLY)

    assert [path.name for path in temporary.iterdir() if path.name.startswith("genmodel-")] == []


def test_work_files_are_kept_where_that_is_asked_for(run, pytester, temporary):
    result = run(f"--genmodel-train-cmd={write(pytester.path)}", "--genmodel-keep", *ZERO_ONLY)

    told = re.search(r"work files are kept in (\S+)", result.stdout.str())
    assert told is not None
    [written] = Path(told[1]).glob("training-*/trained/transformer/*.safetensors")
    assert written.stat().st_size > 0
    assert list(Path(told[1]).glob("training-*/inputs/*/model_index.json"))


HANGS = """
import os, time
print("training", flush=True)
(output / "part").write_text(str(os.getpid()))
(output / "part").rename(output / "pid")
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_broken_off_run_leaves_nothing_behind(pytester, healthy, temporary, number):
    command = write(pytester.path, (SAVE, HANGS))
    arguments = [f"--genmodel-ckpt={healthy}", f"--genmodel-train-cmd={command}", *ZERO_ONLY]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (found := list(temporary.glob("genmodel-*/training-*/trained/pid"))):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        trainer = int(found[0].read_text())
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()

    assert list(temporary.glob("genmodel-*")) == []
    deadline = time.monotonic() + 20
    while _alive(trainer) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(trainer)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
