"""The ladder of learning rates in the suite and in the terminal."""

from __future__ import annotations

import pytest

IDS = [f"genmodel::training::lr_ladder[{trainer}]" for trainer in ("full", "lora")]


def collected(result):
    return [line for line in result.outlines if "lr_ladder" in line and "::" in line]


def test_ladder_is_in_the_suite_only_where_it_was_asked_for(run):
    assert collected(run("--collect-only", "-q")) == []
    assert collected(run("--collect-only", "-q", "--genmodel-lr-ladder=0,1e-9,1e-5")) == IDS


def test_own_trainer_climbs_the_ladder_in_place_of_the_built_in_ones(run, pytester):
    pytester.makepyfile(mine="def train(reference, lr, steps, seed, output): ...")
    pytester.makeini("[pytest]\npythonpath = .\n")

    result = run("--collect-only", "-q", "--genmodel-lr-ladder=0,1e-9,1e-5", "--genmodel-trainer=mine:train")

    assert collected(result) == ["genmodel::training::lr_ladder[trainer]"]


def test_table_and_plot_are_shown_and_reported(run, report):
    result = run("--genmodel-lr-ladder=0,1e-9,1e-5", "--genmodel-json=report.json", IDS[0])

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "  lr_ladder (full): how far training moves weights and sample, by its rate",
            "    rate    used  a value moves  weights  latents   frames",
            "    0          0              0        0        0        0",
            "    1e-09  1e-09 *",
            "    1e-05  1e-05 *",
            "    rate    1e-9 *",
            "    1e-09   *",
            "    1e-05   *",
            "*weights*sample (latents)*",
        ]
    )
    [verdict] = report()["verdicts"]
    assert [row["rate"] for row in verdict["measurements"]["ladder"]] == [0.0, 1e-9, 1e-5]


def test_marker_gives_rates_and_refuses_wrong_ones_while_collecting(run, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.invariant("lr_ladder", rates=[0, 1e-7])
        def test_ladder(candidate): ...
        """
    )

    result = run("--genmodel-no-suite")

    result.stdout.fnmatch_lines(["*at least 3 rates, rising from 0*"])


@pytest.mark.parametrize("value", ["0,1e-9,1e-5"])
def test_ini_file_can_ask_for_it(run, pytester, value):
    pytester.makeini(f"[pytest]\ngenmodel_lr_ladder = {value}\n")

    assert collected(run("--collect-only", "-q")) == IDS
