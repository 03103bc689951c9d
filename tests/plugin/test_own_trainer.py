"""A trainer of the user's own in place of the built-in ones, named on the command line."""

from __future__ import annotations

import sys

import pytest

TRAINER = """
from pathlib import Path
from pytest_genmodel.training.full import train_full


def train(reference, *, lr, steps, seed, output):
    assert Path(reference).name == "cogvideox-i2v"
    train_full(Path(reference), lr=lr, steps=steps, seed=seed, output=Path(output))
"""
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from own_trainer import train
print("it begins")
train(sys.argv[1], lr=float(sys.argv[2]), steps=2, seed=0, output=sys.argv[3])
"""
IDS = [f"genmodel::training::{claim}[[]trainer[]]*" for claim in ("zero_lr_identity", "learning_moves")]


@pytest.fixture
def command(pytester):
    pytester.makepyfile(own_trainer=TRAINER)
    script = pytester.makepyfile(script=SCRIPT.format(folder=str(pytester.path)))
    return f"--genmodel-train-cmd='{sys.executable}' '{script}' {{reference}} {{lr}} {{output}}"


def test_function_takes_the_place_of_the_built_in_trainers(run, pytester):
    pytester.makepyfile(own_trainer=TRAINER)
    pytester.makeini("[pytest]\npythonpath = .\n")

    result = run("--genmodel-trainer=own_trainer:train", "-k", "zero_lr or learning", "-v")

    assert (result.ret, result.parseoutcomes()["passed"]) == (0, 2)
    result.stdout.fnmatch_lines(IDS)


def test_command_is_run_for_both_claims_and_shown_live_under_s(run, command):
    result = run(command, "-k", "zero_lr or learning", "-v", "-s")

    assert (result.ret, result.parseoutcomes()["passed"]) == (0, 2)
    assert sum("it begins" in line for line in result.outlines) == 2


def test_command_that_fails_says_its_last_lines(run):
    code = "import sys; print('no space left on device'); sys.exit(3)"
    text = f"--genmodel-train-cmd='{sys.executable}' -c \"{code}\" {{reference}} {{lr}} {{output}}"

    result = run(text, "-k", "zero_lr")

    result.stdout.fnmatch_lines(["*GM711*", "*exit status 3*", "*no space left on device*"])


def test_function_that_is_not_there_is_said_in_one_line(run):
    result = run("--genmodel-trainer=no_such_module:train")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    [line] = [line for line in result.outlines if "no_such_module:train" in line and "is its folder" in line]
    assert line.startswith(
        "--genmodel-trainer: the trainer no_such_module:train cannot be imported: No module"
    )
    assert not {".py:", "coverage"} & set(result.stdout.str().split("= ERRORS =")[-1].split())
