"""The built-in suite as pytest items: ids, selection, several candidates, workers."""

from __future__ import annotations

import pytest

IDS = [
    "genmodel::checkpoint::coverage",
    "genmodel::checkpoint::sound_weights",
    "genmodel::checkpoint::same_weights",
    "genmodel::checkpoint::same_config",
    "genmodel::checkpoint::sound_schedule",
    "genmodel::checkpoint::known_fields",
    "genmodel::round_trip::save_load_round_trip",
    "genmodel::sampling::denoiser_call",
    "genmodel::sampling::absolute_checks",
    "genmodel::sampling::seeded_sampling",
    "genmodel::sampling::sound_video",
    "genmodel::sampling::sound_prediction",
    "genmodel::sampling::sound_autoencoder",
    "genmodel::sampling::reproducible",
    "genmodel::neutrality::neutral_transformations",
    "genmodel::liveness::conditions_matter",
    "genmodel::liveness::tensors_matter",
    "genmodel::liveness::padding_is_ignored",
    "genmodel::training::zero_lr_identity[full]",
    "genmodel::training::zero_lr_identity[lora]",
    "genmodel::training::learning_moves[full]",
    "genmodel::training::learning_moves[lora]",
    "genmodel::training::resume_is_exact[full]",
    "genmodel::training::resume_is_exact[lora]",
    "genmodel::training::training_conditions[full]",
    "genmodel::adapters::adapter_identity",
]
SAMPLING = "genmodel::sampling::seeded_sampling"
STATIC = 6
"""Claims about files alone: the first of the list."""
SKIPPED = 3
"""Claims that random weights cannot be held to, and that of padding, which this family reads by design."""
SAMPLES = 24
"""Pipeline runs of the whole suite on one candidate with itself as the reference."""


def among(part: str) -> int:
    return sum(part in id_ for id_ in IDS)


def collected(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "::" in line]


def test_ids_are_stable_and_free_of_paths(run):
    result = run("--collect-only", "-q")

    assert collected(result) == IDS


def test_whole_suite_is_green_quiet_and_cheap(run, report):
    result = run("--genmodel-ref={healthy}", "--genmodel-json=report.json")

    passed = len(IDS) - SKIPPED
    result.assert_outcomes(passed=passed, skipped=SKIPPED)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"*: {passed} passed, {SKIPPED} skipped ({SAMPLES} samples computed)"])
    assert "warning" not in result.stdout.str().lower()
    assert sum(verdict["samples_computed"] for verdict in report()["verdicts"]) == SAMPLES


def test_nothing_is_said_while_it_samples(run):
    result = run("-s", "-k", "seeded_sampling or coverage")

    assert result.stderr.lines == []
    assert not [line for line in result.outlines if "it/s" in line]


def test_suite_is_added_to_the_users_tests(run, pytester):
    pytester.makepyfile("def test_mine(): pass")

    assert collected(run("--collect-only", "-q"))[0].endswith("::test_mine")
    assert len(collected(run("--collect-only", "-q"))) == len(IDS) + 1
    assert len(collected(run("--collect-only", "-q", "--genmodel-no-suite"))) == 1


def test_nothing_is_added_without_a_candidate(run, pytester):
    pytester.makepyfile("def test_mine(): pass")

    result = run(candidate=False)

    result.assert_outcomes(passed=1)
    assert "genmodel" not in "\n".join(result.outlines[5:])


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["-k", "coverage"], 1),
        (["-k", "zero_lr_identity and lora"], 1),
        (["-k", "checkpoint"], among("::checkpoint::")),
        (["-m", "genmodel"], len(IDS)),
        (["-m", "not genmodel"], 0),
        (["--deselect", IDS[0]], len(IDS) - 1),
        (["--deselect", "genmodel::training"], len(IDS) - among("::training::")),
        ([SAMPLING], 1),
        (["genmodel::training::zero_lr_identity"], 2),
        (["genmodel::checkpoint", SAMPLING], among("::checkpoint::") + 1),
        (["genmodel"], len(IDS)),
    ],
)
def test_selection(run, arguments, count):
    assert len(collected(run("--collect-only", "-q", *arguments))) == count


def test_selecting_an_item_of_the_suite_leaves_the_users_tests_alone(run, pytester):
    pytester.makepyfile(test_mine="raise SystemExit('imported')")

    result = run("genmodel::checkpoint::coverage")

    result.assert_outcomes(passed=1)


def test_selecting_an_item_beside_a_file_runs_both(run, pytester):
    pytester.makepyfile(test_mine="def test_mine(): pass", test_other="def test_other(): pass")

    run("test_mine.py", "genmodel::checkpoint::coverage").assert_outcomes(passed=2)


def test_unknown_id_of_the_suite_is_a_usage_error(run):
    result = run("genmodel::sampling::seded_sampling")

    assert result.ret == 4
    result.stderr.fnmatch_lines(["*genmodel::sampling::seded_sampling*did you mean*seeded_sampling*"])


def test_last_failed_runs_the_failed_item_again(run, copy):
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    arguments = [f"--genmodel-ckpt={copy}", "--genmodel-level=static"]
    first = run(*arguments, "-k", "coverage or same_config", candidate=False)
    first.assert_outcomes(failed=1, skipped=1)

    again = run(*arguments, "--lf", candidate=False)

    again.assert_outcomes(failed=1)


def test_several_candidates_are_told_apart_by_their_last_part(run, copy):
    result = run(f"--genmodel-ckpt={copy}", "--collect-only", "-q", "-k", "coverage")

    assert collected(result) == [f"{IDS[0]}[cogvideox-i2v]", f"{IDS[0]}[copy]"]


def test_alike_names_are_numbered(run, copy, healthy):
    twin = copy.rename(copy.parent / healthy.name)

    result = run(f"--genmodel-ckpt={twin}", "--collect-only", "-q", "-k", "coverage")

    assert collected(result) == [f"{IDS[0]}[cogvideox-i2v-1]", f"{IDS[0]}[cogvideox-i2v-2]"]


def test_workers_give_the_same_ids_verdicts_and_one_report(run, report):
    pytest.importorskip("xdist")

    result = run("-n", "2", "--genmodel-json=report.json", "--genmodel-ref={healthy}", subprocess=True)

    result.assert_outcomes(passed=len(IDS) - SKIPPED, skipped=SKIPPED)
    assert sorted(verdict["id"] for verdict in report()["verdicts"]) == sorted(IDS)
    assert report()["candidate"]["dtype"] == "float32"
    # Each worker has its own memory of samples: what two verdicts share may be computed twice.
    assert sum(verdict["samples_computed"] for verdict in report()["verdicts"]) in range(SAMPLES, 2 * SAMPLES)


def test_junit_carries_codes_and_errors(run, copy, pytester):
    from xml.etree import ElementTree

    from tests.editing import TO_Q, TRANSFORMER, drop_tensors

    drop_tensors(copy / TRANSFORMER, TO_Q)
    run(f"--genmodel-ckpt={copy}", "--junitxml=junit.xml", "-k", "coverage or seeded", candidate=False)

    suite = ElementTree.parse(pytester.path / "junit.xml").getroot()[0]
    assert (suite.get("failures"), suite.get("errors")) == ("1", "1")
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties["genmodel.codes"] == "GM201"


def test_run_that_judged_nothing_fails(run):
    result = run("-k", "same_weights")

    result.assert_outcomes(skipped=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*nothing was judged*"])


def test_static_level_loads_no_model_for_what_it_skips(run):
    result = run("--genmodel-level=static", "-k", "not coverage", "--genmodel-ref={healthy}", "-rs")

    result.assert_outcomes(passed=STATIC - 1, skipped=len(IDS) - STATIC)
    result.stdout.fnmatch_lines(["*needs --genmodel-level=quick*"])


def test_lora_claims_are_skipped_with_the_extra_where_peft_is_missing(run, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "peft" else find_spec(name, *a)
    )

    result = run("-k", "lora or adapter_identity", "-rs")

    result.assert_outcomes(skipped=among("[lora]") + 1)
    result.stdout.fnmatch_lines(["*pip install 'pytest-genmodel*lora*'*"])


def test_an_id_is_taken_as_it_was_shown_in_a_folder_below_the_root(pytester, healthy, monkeypatch):
    pytester.makeini("[pytest]")
    below = pytester.mkdir("below")
    monkeypatch.chdir(below)
    arguments = ("-v", "-p", "no:cacheprovider", f"--genmodel-ckpt={healthy}", "--genmodel-level=static")

    shown = pytester.runpytest(*arguments, "-k", "coverage")
    shown.stdout.fnmatch_lines("../genmodel::checkpoint::coverage PASSED*")
    for id_ in ("../genmodel::checkpoint::coverage", "genmodel::checkpoint::coverage"):
        pytester.runpytest(*arguments, id_).assert_outcomes(passed=1)
