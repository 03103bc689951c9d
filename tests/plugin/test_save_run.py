"""`--genmodel-save-run`: the run is kept whole, judged again without a model, and a baseline accepted from it."""

from __future__ import annotations

import json

import pytest

from pytest_genmodel.baselines.store import Store
from pytest_genmodel.cli.main import main
from pytest_genmodel.runs.saved import read
from tests.editing import TO_Q, TRANSFORMER, edit_tensors
from tests.inner import DRIFTS

pytest_plugins = ["tests.inner"]

SAVE = "--genmodel-save-run=run"
SHORT = ("--genmodel-steps=2", "--genmodel-frames=9")


def test_a_failure_is_judged_again_under_the_tolerance_that_it_told(run, pytester, capsys):
    pytester.makeconftest(DRIFTS)
    result = run(SAVE, *SHORT, "-k", "seeded_sampling")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the run is kept in run (genmodel judge run*"])

    kept = read("run")
    [verdict] = kept.report["verdicts"]
    limit = verdict["findings"][0]["evidence"]["limit"]
    [passes] = [line for line in result.outlines if line.startswith("  passes: ")]
    rounded = passes.removeprefix("  passes: tolerance=")

    assert main(["judge", "run"]) == 1
    assert main(["judge", "run", "--tolerance", limit["smallest_tolerance"]]) == 0
    assert main(["judge", "run", "--tolerance", f"seeded_sampling={rounded}"]) == 0
    assert main(["judge", "run", "--tolerance", "ulp:0"]) == 1
    assert "failed -> passed" in capsys.readouterr().out
    assert kept.left_out == ()


def test_workers_keep_what_one_process_keeps(run, pytester):
    arguments = ("-k", "seeded_sampling or same_config", "--genmodel-ref={healthy}", *SHORT)
    run(SAVE, *arguments, "-p", "no:xdist").assert_outcomes(passed=2)
    run("--genmodel-save-run=many", *arguments, "-n", "2").assert_outcomes(passed=2)

    one, many = read("run"), read("many")
    assert one.comparisons == many.comparisons
    assert [v["outcome"] for v in one.report["verdicts"]] == [v["outcome"] for v in many.report["verdicts"]]
    first, second = (Store.open(kept.path / "baseline.safetensors") for kept in (one, many))
    assert "reference/sample" in first.names()
    assert first.get("reference/pipeline").value["conditions"]["level"] == "quick"
    assert first.diff(second) == []


def test_a_candidate_is_accepted_and_stands_for_the_reference(run, copy):
    edit_tensors(copy / TRANSFORMER, lambda tensors: tensors | {TO_Q: tensors[TO_Q] * 1.01})
    against = ("--genmodel-baseline=b.safetensors", "--genmodel-level=static", "--genmodel-expect=identical")
    static = ("--genmodel-level=static", "-k", "same_weights or same_config")
    run(SAVE, *static, "--genmodel-ref={healthy}").assert_outcomes(passed=2)
    assert main(["accept", "run", "--baseline", "b.safetensors", "--yes"]) == 0
    assert main(["judge", "run"]) == 0

    run(*against, "-k", "same_weights").assert_outcomes(passed=1)
    changed = run(f"--genmodel-ckpt={copy}", SAVE, *against, "-k", "same_weights", candidate=False)
    changed.assert_outcomes(failed=1)

    assert main(["accept", "run", "reference", "--yes"]) == 0, "into the baseline of the run"
    run(f"--genmodel-ckpt={copy}", *against, "-k", "same_weights", candidate=False).assert_outcomes(passed=1)


GOLDEN = """
import torch

def test_it(candidate, baseline):
    baseline.check("latents", torch.full((3,), {value}))
"""


def test_a_golden_value_is_accepted_by_its_test(run, pytester):
    with_baseline = ("--genmodel-baseline=b.safetensors", "--genmodel-no-suite")
    pytester.makepyfile(test_it=GOLDEN.format(value=1.0))
    run(*with_baseline, "--genmodel-update-baseline").assert_outcomes(passed=1)
    pytester.makepyfile(test_it=GOLDEN.format(value=1.5))
    run(*with_baseline, SAVE).assert_outcomes(failed=1)

    assert main(["accept", "run", "test_it.py::test_it", "--yes"]) == 0

    run(*with_baseline).assert_outcomes(passed=1)


def test_a_run_that_is_broken_off_is_kept_and_nothing_is_accepted_from_it(run, pytester, capsys):
    pytester.makepyfile("import pytest\ndef test_it(candidate): pytest.exit('enough')")
    run(SAVE, "--genmodel-no-suite", "-p", "no:cacheprovider")

    document = json.loads((pytester.path / "run/run.json").read_text())
    assert document["report"]["complete"] is False
    assert main(["accept", "run", "--baseline", "b.safetensors", "--yes"]) == 2
    assert "did not come to its end" in capsys.readouterr().err
    assert main(["judge", "run"]) == 2


@pytest.mark.parametrize("place", ["work", "work/thesis.tex"])
def test_a_folder_of_something_else_is_refused_before_anything_runs(run, pytester, place):
    (pytester.path / "work").mkdir()
    (pytester.path / "work/thesis.tex").write_text("years")

    result = run(f"--genmodel-save-run={place}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --genmodel-save-run={place}: something else is there*"])


def test_a_second_run_takes_the_place_of_the_first(run, pytester):
    run(SAVE, "--genmodel-level=static", "-k", "coverage")
    run(SAVE, "--genmodel-level=static", "-k", "sound_weights")

    assert [verdict["invariant"] for verdict in read("run").report["verdicts"]] == ["sound_weights"]
    assert sorted(entry.name for entry in pytester.path.iterdir() if entry.name.startswith(".run")) == []


def test_without_the_option_nothing_is_kept(run, pytester):
    run("--genmodel-level=static", "-k", "coverage")

    assert not (pytester.path / "run").exists()


def test_a_run_that_cannot_be_kept_is_said_and_fails_and_keeps_its_summary(run, pytester):
    """Whatever goes wrong at the end of an hour's run."""
    pytester.makeconftest(
        "from pytest_genmodel.runs import saved\n"
        "def broken(*_):\n    raise KeyError('of ours')\n"
        "saved.write = broken\n"
    )
    result = run(SAVE, "-k", "known_fields")

    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*1 passed*samples computed*", "--genmodel-save-run=run: could not be made (KeyError:*"]
    )
    assert not (pytester.path / "run").exists()
