"""What every failure ends with: its code, the number against the limit, what would have passed, where, why, and the
command that judges just this again."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped
from pytest_genmodel.faults.registry import all_faults
from pytest_genmodel.invariants.verdict import Outcome, Verdict
from pytest_genmodel.reports.replay import replay
from pytest_genmodel.reports.report import plain
from pytest_genmodel.reports.text import verdict_text
from pytest_genmodel.tensors.smallest import NO_TOLERANCE
from pytest_genmodel.training.full import train_full
from tests.editing import TO_Q, TRANSFORMER, VAE, edit_json, edit_tensors
from tests.inner import DRIFTS

pytest_plugins = ["tests.inner"]

FIXED = "(as a tolerance of assert_close; the limit is the claim's own)"
FAULTS = {
    "lora_still_attached": NO_TOLERANCE,
    "not_a_number": NO_TOLERANCE,
    "position_table_zeroed": FIXED,
    "saved_in_bfloat16": FIXED,
    "another_prediction_type": NO_TOLERANCE,
    "image_latents_are_zero": NO_TOLERANCE,
    "learned_positions_not_added": NO_TOLERANCE,
    "fused_projections_in_another_order": "a limit of",
    "generator_ignored": "tolerance=close(atol=",
    "last_step_goes_half_way": "a limit of",
    "saver_drops_a_tensor": FIXED,
    "new_adapter_is_not_neutral": "a limit of",
    "merging_ignores_alpha": "a limit of",
}
"""A fault for each claim that one is registered for, and what would have passed."""


def ending(verdict: Verdict, options: tuple[str, ...] = ("--genmodel-seed=0",)) -> tuple[dict[str, str], str]:
    """The rows that a failure ends with, by their titles, and the line before them; the last row is the command."""
    nodeid = f"genmodel::checkpoint::{verdict.invariant}"
    record = {**verdict.to_json(), "id": nodeid, "candidate": "run-17", "replay": replay(nodeid, options)}
    *_, block = verdict_text(plain(record)).split("\n\n")
    head, *lines = block.splitlines()
    rows: dict[str, str] = {}
    for line in lines:
        title, text = line[:10].strip().rstrip(":"), line[10:]
        if title:
            rows[title] = text
        else:
            rows[list(rows)[-1]] += f" {text}"
    assert list(rows) == [name for name in ("number", "passes", "where", "cause", "replay") if name in rows]
    assert rows["replay"] == f"pytest {shlex.join(options)} {nodeid}"
    return rows, head


@pytest.mark.parametrize("name", FAULTS)
def test_every_claim_ends_a_failure_with_code_place_and_command(injected, name):
    fault = all_faults()[name]
    verdict, _ = injected(fault, fault.model)
    assert verdict.outcome is Outcome.FAILED

    rows, head = ending(verdict)

    leading = next(finding for finding in verdict.findings if finding.severity.value == "error")
    assert head.startswith(f"{leading.code} ")
    assert leading.location in rows["where"]
    assert FAULTS[name] in rows["passes"]
    assert (rows["passes"] == NO_TOLERANCE) == ("number" not in rows)
    assert rows.get("cause") == leading.cause


def _altered(reference: Path, output: Path, alter: Callable[[Path], Any], **options: Any) -> Path:
    train_full(reference, output=output, **options)
    alter(output)
    return output


def _one_more(tensors: dict[str, Any]) -> dict[str, Any]:
    return {**tensors, TO_Q: tensors[TO_Q] + 0.25}


TRAINERS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "half precision": (
        "zero_lr_identity",
        lambda output: edit_tensors(
            output / TRANSFORMER, lambda ts: {n: t.bfloat16() for n, t in ts.items()}
        ),
        "close(rtol=0.00391, atol=",
    ),
    "another value": (
        "zero_lr_identity",
        lambda output: edit_tensors(output / TRANSFORMER, _one_more),
        "close(atol=0.251)",
    ),
    "another schedule": (
        "zero_lr_identity",
        lambda output: edit_json(output / "scheduler/scheduler_config.json", prediction_type="epsilon"),
        NO_TOLERANCE,
    ),
    "a frozen part": (
        "learning_moves",
        lambda output: edit_tensors(output / VAE, lambda ts: {n: t + 1.0 for n, t in ts.items()}),
        NO_TOLERANCE,
    ),
}


@pytest.mark.parametrize("what", TRAINERS)
def test_a_trainer_that_writes_something_else(judged, healthy, what):
    claim, alter, passes = TRAINERS[what]

    def trainer(reference, *, lr, steps, seed, output):
        return _altered(reference, output, alter, lr=lr, steps=steps, seed=seed)

    verdict = judged(claim, healthy, parameters={"trainer": trainer})

    rows, head = ending(verdict)
    assert head.startswith(verdict.findings[0].code)
    assert rows["passes"].startswith(passes)
    assert rows["where"]


def _replay_in(result: pytest.RunResult) -> list[str]:
    """The arguments of the one command that a run's output ends a failure with; the summary may say it again."""
    [line] = {line for line in result.outlines if line.startswith("  replay: ")}
    program, *arguments = shlex.split(line.removeprefix("  replay: "))
    assert program == "pytest"
    return arguments


def _codes(result: pytest.RunResult) -> list[str]:
    """The codes that failures end with."""
    return [
        result.outlines[number - back].split()[0]
        for number, line in enumerate(result.outlines)
        if line.startswith("  passes: ")
        for back in (1, 2)
        if result.outlines[number - back].startswith("GM")
    ]


@pytest.fixture
def faulty(copy: Path) -> Path:
    """A folder whose name must be quoted, of a model with a tensor that is no number."""
    edit_tensors(copy / TRANSFORMER, lambda ts: {**ts, TO_Q: ts[TO_Q] * float("nan")})
    return copy.rename(copy.parent / "run 17's")


def test_the_command_of_an_item_of_the_suite_fails_in_the_same_way(pytester, faulty):
    arguments = (
        "-p",
        "no:randomly",
        f"--genmodel-ckpt={faulty}",
        "--genmodel-level=static",
        "--genmodel-seed=3",
    )
    first = pytester.runpytest_inprocess(*arguments, "-k", "sound_weights")

    again = _replay_in(first)
    second = pytester.runpytest_inprocess("-p", "no:randomly", *again)

    assert again[-1] == "genmodel::checkpoint::sound_weights"
    assert "--genmodel-seed=3" in again
    assert _codes(first) == _codes(second) == ["GM304"]
    second.assert_outcomes(failed=1)


TEST = """
import pytest

@pytest.mark.invariant("coverage")
@pytest.mark.invariant("sound_weights")
def test_mine(candidate): pass
"""


def test_the_command_of_a_marker_fails_in_the_same_way_below_the_root(pytester, faulty, monkeypatch):
    pytester.makeini("[pytest]\ngenmodel_seed = 5")
    pytester.makepyfile(test_mine=TEST)
    below = pytester.mkdir("below")
    monkeypatch.chdir(below)
    arguments = ("-p", "no:randomly", f"--genmodel-ckpt={faulty}", "-k", "test_mine and sound_weights")
    first = pytester.runpytest_inprocess(*arguments, "--genmodel-seed=0", "../test_mine.py")

    again = _replay_in(first)
    second = pytester.runpytest_inprocess("-p", "no:randomly", *again)

    assert again[-1] == "../test_mine.py::test_mine[sound_weights]"
    assert "--genmodel-seed=0" in again, "the ini file says another seed"
    assert _codes(first) == _codes(second) == ["GM304"]
    second.assert_outcomes(failed=1)


def test_the_command_under_another_ini_file_and_of_several_candidates(pytester, faulty, healthy):
    pytester.makefile(".ini", other=f"[pytest]\ngenmodel_ref = {healthy}")
    arguments = ("-p", "no:randomly", f"--genmodel-ckpt={healthy}", f"--genmodel-ckpt={faulty}")
    first = pytester.runpytest_inprocess(
        "-c", "other.ini", *arguments, "-k", "same_weights", "--genmodel-strict"
    )

    again = _replay_in(first)
    second = pytester.runpytest_inprocess("-p", "no:randomly", *again)

    assert again[-1] == "genmodel::checkpoint::same_weights[run 17's]"
    assert _codes(first) == _codes(second) == ["GM304"]
    second.assert_outcomes(failed=1)


@pytest.mark.parametrize("claim", ["seeded_sampling", "save_load_round_trip"])
def test_the_smallest_tolerance_given_by_marker_passes(run, pytester, claim):
    def judged(**parameters: str) -> pytest.RunResult:
        given = "".join(f", {name}={value}" for name, value in parameters.items())
        test = f"""
            import pytest
            from pytest_genmodel import bitwise, close, ulp

            @pytest.mark.invariant("{claim}"{given})
            def test_it(candidate): pass
        """
        pytester.makepyfile(test_it=textwrap.dedent(test))
        return run(
            "--genmodel-level=full", "--genmodel-frames=9", "--genmodel-steps=2", "test_it.py", *NO_SUITE
        )

    pytester.makeconftest(DRIFTS)
    first = judged()
    [passes] = [line for line in first.outlines if line.startswith("  passes: ")]
    name, tolerance = passes.removeprefix("  passes: ").split("=", 1)

    assert _codes(first) in (["GM501"], ["GM502"], ["GM604"])
    assert name == "tolerance"
    assert tolerance.startswith("close(atol=")
    judged(tolerance=tolerance).assert_outcomes(passed=1)
    tighter = tolerance.replace("close(atol=", "close(atol=0.9 * ")
    judged(tolerance=tighter).assert_outcomes(failed=1)


NO_SUITE = ("--genmodel-no-suite",)


def test_what_could_not_be_judged_ends_with_its_command(run, pytester, tmp_path, healthy):
    incident = adapter_wrapped(healthy, tmp_path / "incident")

    result = run(f"--genmodel-ckpt={incident}", "-k", "seeded_sampling", candidate=False)

    assert "could not be judged" in result.stdout.str()
    assert _replay_in(result)[-1] == "genmodel::sampling::seeded_sampling"


OWN = """
import torch
from pytest_genmodel import assert_close, invariant

@invariant(code="{code}")
def {name}(context):
    '''Holds.'''
    {body}
"""


@pytest.mark.parametrize(
    ("name", "body", "passes"),
    [
        (
            "stays_put",
            "assert_close(torch.full((3,), 0.25), torch.zeros(3), 'bitwise')",
            f"close(atol=0.25) {FIXED}",
        ),
        ("stays_whole", "assert_close({'a': torch.ones(3)}, {'b': torch.ones(3)})", None),
        ("is_small", "assert context.probe.frames < 2, 'too long'", None),
    ],
)
def test_a_claim_of_a_project_that_is_written_with_asserts(run, pytester, name, body, passes):
    code = f"ACME9{len(name)}"
    pytester.makeconftest(OWN.format(name=name, body=body, code=code))
    test = f"import pytest\n@pytest.mark.invariant('{name}')\ndef test_own(): pass"
    pytester.makepyfile(test_own=test)

    result = run("test_own.py", *NO_SUITE)

    lines = result.outlines[: result.outlines.index(next(x for x in result.outlines if "= genmodel =" in x))]
    start = len(lines) - lines[::-1].index(f"{code} {name.replace('_', ' ')} (error)")
    rows = [line[:10].strip() for line in lines[start:]]
    assert rows == (["number:"] if passes else []) + (["passes:"] if passes else []) + ["where:", "replay:"]
    if passes:
        assert lines[start + 1] == f"  passes: {passes}"
