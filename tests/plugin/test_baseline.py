"""The baseline in a pytest run: made, used, refused, renewed, and golden values of tests; also under -n."""

from __future__ import annotations

import pytest

from pytest_genmodel.baselines.store import Store
from tests.editing import VAE, edit_tensors

GOLDEN = """
    import torch

    def test_a(baseline):
        baseline.check("ramp", torch.arange(4.0))

    def test_b(genmodel_baseline):
        genmodel_baseline.check("one", torch.ones(2, 3), "close:atol=0.1")
        genmodel_baseline.check("other", [1, 2])
"""
NAMES = (
    "golden/test_golden.py::test_a/ramp",
    "golden/test_golden.py::test_b/one",
    "golden/test_golden.py::test_b/other",
)
FILE = "--genmodel-baseline=b.baseline"
UPDATE = "--genmodel-update-baseline"


def stored(pytester):
    return Store.open(pytester.path / "b.baseline")


@pytest.fixture
def golden(pytester, run):
    """A project with golden values on record."""
    pytester.makepyfile(test_golden=GOLDEN)
    run(FILE, UPDATE, candidate=False).assert_outcomes(passed=2)
    assert stored(pytester).names() == NAMES
    return pytester.path / "b.baseline"


def test_baseline_of_a_reference_is_made_and_judges_without_it(pytester, run, report):
    made = run("--genmodel-ref={healthy}", FILE, UPDATE, candidate=False)
    made.stdout.fnmatch_lines(["*+ reference/component/transformer: 65 tensors", "b.baseline: written, *kB"])
    assert made.ret == 0
    before = (pytester.path / "b.baseline").read_bytes()

    result = run(FILE, "--genmodel-json=report.json", "genmodel::checkpoint", "genmodel::sampling")

    assert result.ret == 0
    outcomes = {v["invariant"]: v["outcome"] for v in report()["verdicts"]}
    passed = {"same_weights", "same_config", "sample_as_before", "seeded_sampling", "sound_video"}
    assert {name for name in passed if outcomes[name] == "passed"} == passed
    assert outcomes["baseline_is_current"] == outcomes["denoiser_call"] == "skipped"
    result.stdout.fnmatch_lines(["*needs the reference's weights, and a baseline holds*"])
    assert (pytester.path / "b.baseline").read_bytes() == before


@pytest.fixture
def recorded(pytester, run):
    """A project with the baseline of the healthy pipeline."""
    run("--genmodel-ref={healthy}", FILE, UPDATE, "--genmodel-level=static", candidate=False)
    return pytester.path / "b.baseline"


def test_damaged_candidate_is_found_with_nothing_but_the_baseline(run, recorded, copy):
    edit_tensors(
        copy / VAE, lambda t: {**t, "decoder.conv_in.conv.weight": t["decoder.conv_in.conv.weight"] * 1.5}
    )

    result = run(
        FILE,
        f"--genmodel-ckpt={copy}",
        "--genmodel-level=static",
        "genmodel::checkpoint::same_weights",
        candidate=False,
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*GM3*", "*decoder.conv_in.conv.weight*"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            [FILE],
            "*there is no such file; make it: pytest --genmodel-ref=REFERENCE *--genmodel-update-baseline*",
        ),
        ([UPDATE], "*--genmodel-update-baseline writes a file: name it as --genmodel-baseline*"),
        (["--genmodel-baseline=gone/x/y", UPDATE, "-p", "no:cacheprovider"], None),
        (["--genmodel-baseline=.", UPDATE], "*--genmodel-baseline=.: cannot be written there*"),
        (["--genmodel-baseline=notes.txt"], "*notes.txt: no baseline of pytest-genmodel*"),
    ],
)
def test_what_cannot_be_used_is_one_line(pytester, run, arguments, told):
    (pytester.path / "notes.txt").write_text("not a baseline at all")

    result = run(*arguments, candidate=False)

    if told is None:
        assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED or result.ret == 0
        return
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])
    assert "Traceback" not in str(result.stderr)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--genmodel-seed=7"], "*made with level 'static', and this run has 'quick' (--genmodel-level)*"),
        (["--genmodel-level=static", "--genmodel-seed=7"], None),
    ],
)
def test_other_settings_are_refused_by_the_key_that_differs(run, recorded, arguments, told):
    result = run(FILE, "genmodel::checkpoint::same_config", *arguments)

    if told is None:
        result.assert_outcomes(passed=1)
    else:
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([told])


def test_another_kind_of_pipeline_is_refused(run, recorded):
    result = run(FILE, "--genmodel-ckpt=tiny:wan2.1-i2v", "--genmodel-level=static", candidate=False)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*made of a CogVideoXImageToVideoPipeline, and tiny:wan2.1-i2v is a Wan*"])


def test_golden_values_are_kept_and_compared(pytester, run, golden):
    run(FILE, candidate=False).assert_outcomes(passed=2)
    pytester.makepyfile(
        test_golden=GOLDEN.replace("arange(4.0)", "arange(4.0) + 0.5").replace(
            "ones(2, 3)", "ones(2, 3) + 0.05"
        )
    )

    result = run(FILE, candidate=False)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*golden value*",
            "*if this is meant: pytest test_golden.py::test_a --genmodel-baseline=*--genmodel-update-baseline",
        ]
    )
    assert "baselines/goldens.py" not in str(result.stdout)


def test_a_value_without_a_golden_one_fails_with_the_command(pytester, run, golden):
    pytester.makepyfile(test_golden=GOLDEN + "\n        genmodel_baseline.check('new', 1.0)\n")

    result = run(FILE, candidate=False)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*no golden value 'new' of this test; make it: pytest test_golden.py::test_b *"]
    )


def test_nothing_is_written_without_the_flag(pytester, run, golden):
    before = golden.read_bytes()
    pytester.makepyfile(test_golden=GOLDEN.replace("4.0", "5.0"))

    run(FILE, candidate=False).assert_outcomes(passed=1, failed=1)

    assert golden.read_bytes() == before


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_update_shows_what_changes_and_writes_it(pytester, run, golden, workers):
    pytester.makepyfile(
        test_golden=GOLDEN.replace("arange(4.0)", "arange(4.0) + 0.5").replace('"one"', '"first"')
    )

    result = run(FILE, UPDATE, *workers, candidate=False, subprocess=bool(workers))

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "  ~ golden/test_golden.py::test_a/ramp: value moves by up to 0.5",
            "  + golden/test_golden.py::test_b/first: F32 [[]2, 3[]]",
            "  - golden/test_golden.py::test_b/one",
            "b.baseline: written, *",
        ]
    )
    assert stored(pytester).names() == (NAMES[0], "golden/test_golden.py::test_b/first", NAMES[2])
    run(FILE, candidate=False).assert_outcomes(passed=2)
    again = run(FILE, UPDATE, candidate=False)
    again.stdout.fnmatch_lines(["b.baseline: nothing changes"])


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_unused_values_fail_the_run_with_the_command_that_removes_them(pytester, run, golden, workers):
    pytester.makepyfile(test_golden=GOLDEN.split("def test_b")[0])

    result = run(FILE, *workers, candidate=False, subprocess=bool(workers))

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "2 golden values are asked for by no test any more, so this run fails:",
            "  test_golden.py::test_b/one",
            "to remove them: pytest *--genmodel-baseline=b.baseline*--genmodel-update-baseline",
        ]
    )
    removed = run(FILE, UPDATE, candidate=False)
    assert removed.ret == 0
    assert stored(pytester).names() == NAMES[:1]
    assert run(FILE, candidate=False).ret == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["test_golden.py::test_a"],
        ["-k", "test_a"],
        ["other"],
        ["--genmodel-ckpt=tiny:cogvideox-i2v", "--genmodel-level=static", "genmodel::checkpoint::coverage"],
    ],
)
def test_a_part_of_the_run_calls_nothing_unused_and_removes_nothing(pytester, run, golden, arguments):
    (pytester.path / "other").mkdir()
    (pytester.path / "other" / "test_it.py").write_text("def test_it(): pass")
    pytester.makepyfile(test_golden=GOLDEN.split("def test_b")[0] + "def test_c(): pass")

    assert run(FILE, *arguments, candidate=False).ret == 0
    assert run(FILE, UPDATE, *arguments, candidate=False).ret == 0

    assert set(stored(pytester).names()) >= set(NAMES)


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["one process", "a worker"])
def test_a_test_that_is_deselected_is_there_and_one_that_is_gone_is_not(pytester, run, golden, workers):
    pytester.makeini("[pytest]\nmarkers = slow: takes long")
    pytester.makepyfile(
        test_golden="""
        import pytest

        def test_a():
            pass

        @pytest.mark.slow
        def test_b(baseline):
            pass
        """
    )

    result = run(FILE, "-m", "not slow", *workers, candidate=False, subprocess=bool(workers))

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["1 golden value is asked for by no test any more*", "  test_golden.py::test_a/ramp"]
    )


def test_a_test_that_fails_or_is_skipped_keeps_its_values(pytester, run, golden):
    pytester.makepyfile(
        test_golden="""
        import pytest, torch

        def test_a(baseline):
            baseline.check("ramp", torch.zeros(4))
            assert False

        @pytest.mark.skip
        def test_b(baseline):
            pass
        """
    )
    run(FILE, candidate=False).stdout.no_fnmatch_line("*asked for by no test*")

    result = run(FILE, UPDATE, candidate=False)

    result.assert_outcomes(failed=1, skipped=1)
    assert stored(pytester).names() == NAMES
    kept = stored(pytester).get(NAMES[0]).tensors["value"].tensor()
    assert kept.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_an_interrupted_run_leaves_the_baseline_as_it_was(pytester, run, golden):
    before = golden.read_bytes()
    pytester.makepyfile(
        test_golden=GOLDEN.replace("4.0", "5.0").replace(
            "def test_b(genmodel_baseline):",
            "def test_b(genmodel_baseline):\n        raise KeyboardInterrupt",
        )
    )

    result = run(FILE, UPDATE, candidate=False, subprocess=True)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert golden.read_bytes() == before
    result.stdout.fnmatch_lines(["*did not come to its end: the baseline stays as it was*"])


def test_accepted_entries_and_goldens_survive_a_new_reference(pytester, run, golden):
    from pytest_genmodel.baselines.store import Entry

    store = stored(pytester)
    store.put("accepted/one", Entry("why"))
    store.write()

    run(FILE, UPDATE, "--genmodel-ref={healthy}", "--genmodel-level=static", candidate=False)

    names = stored(pytester).names()
    assert set(names) > {*NAMES, "accepted/one"}
    assert "reference/pipeline" in names


def test_without_the_option_such_a_test_is_skipped(pytester, run):
    pytester.makepyfile(test_golden=GOLDEN)

    run(candidate=False).assert_outcomes(skipped=2)
    result = run("--genmodel-strict", candidate=False)

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*no baseline was given (--genmodel-baseline=FILE)*"])


def test_a_fixture_of_the_same_name_wins(pytester, run):
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def baseline():
            return 7

        def test_it(baseline):
            assert baseline == 7
        """
    )
    run(candidate=False).assert_outcomes(passed=1)


def test_the_ini_file_may_name_it(pytester, run, golden):
    pytester.makeini("[pytest]\ngenmodel_baseline = b.baseline")
    run(candidate=False).assert_outcomes(passed=2)


def test_what_no_golden_value_can_be(pytester, run, golden):
    pytester.makepyfile(
        test_golden=GOLDEN,
        test_bad="""
        import pytest, torch
        from pytest_genmodel import BadInputError

        @pytest.mark.parametrize(
            ("name", "value", "told"),
            [
                ("a/b", 1.0, "without a slash"),
                ("", 1.0, "no name"),
                ("large", torch.zeros(5 << 20), "20.0 MiB"),
                ("nan", torch.tensor(float("nan")), "holds NaN"),
                ("text", "x", "cannot compare a str"),
            ],
        )
        def test_refused(baseline, name, value, told):
            baseline.check("fine", torch.tensor(float("nan")), equal_nan=True)
            with pytest.raises(BadInputError, match=told):
                baseline.check(name, value)
            with pytest.raises(BadInputError, match="before"):
                baseline.check("fine", 1.0)
        """,
    )
    run(FILE, UPDATE, candidate=False).assert_outcomes(passed=7)
    result = run(FILE, "test_bad.py", "-k", "large or text", candidate=False)
    result.assert_outcomes(passed=2)


def test_values_made_with_other_settings_say_so(pytester, run):
    pytester.makepyfile(
        test_golden="""
        def test_it(probe, baseline):
            baseline.check("seed", probe.seed)
        """
    )
    run(FILE, UPDATE, "--genmodel-no-suite").assert_outcomes(passed=1)

    result = run(FILE, "--genmodel-no-suite", "--genmodel-seed=3")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the golden value was made with seed by default, now 3*"])
