"""@pytest.mark.invariant: each an item of its own; wrong names are collection errors that help."""

from __future__ import annotations

import pytest


def test_each_marker_is_an_item(run, pytester, report):
    pytester.makepyfile(
        """
        import pytest
        from pytest_genmodel import bitwise

        @pytest.mark.invariant("coverage")
        @pytest.mark.invariant("seeded_sampling", seed=7, steps=1, tolerance=bitwise)
        def test_candidate(candidate):
            assert candidate.spec
        """
    )

    result = run("--genmodel-no-suite", "-v", "--genmodel-json=report.json")

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*test_candidate[[]coverage[]] PASSED*", "*test_candidate[[]seeded_sampling[]] PASSED*"]
    )
    sampling = report()["verdicts"][1]
    assert sampling["parameters"] == {"seed": "7", "steps": "1", "tolerance": "bitwise"}
    assert sampling["measurements"]["seed"] == 7


def test_one_invariant_twice_is_told_apart_by_its_parameters(run, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.invariant("seeded_sampling", seed=1)
        @pytest.mark.invariant("seeded_sampling", seed=2)
        def test_it(): pass
        """
    )

    result = run("--genmodel-no-suite", "--collect-only", "-q")

    assert [line.split("::")[1] for line in result.outlines if "::" in line] == [
        "test_it[seeded_sampling-seed=1]",
        "test_it[seeded_sampling-seed=2]",
    ]


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('"seded_sampling"', "no invariant is called 'seded_sampling'; did you mean 'seeded_sampling'?"),
        ('"seeded_sampling", sed=3', "takes no parameter 'sed'; did you mean 'seed'? (accepted: seed, steps"),
        ('"coverage", seed=3', "takes no parameter 'seed' (accepted: none)"),
        ('"seeded_sampling", tolerance="psn:40"', "unknown tolerance 'psn:40'; accepted: bitwise"),
        ('name="coverage"', "as @pytest.mark.invariant(\"coverage\"), not (name='coverage')"),
        ("", "takes one name and keyword parameters"),
        ("3", "takes one name and keyword parameters"),
    ],
)
def test_wrong_marker_is_a_collection_error_that_helps(run, pytester, marker, message):
    pytester.makepyfile(f"import pytest\n@pytest.mark.invariant({marker})\ndef test_it(): pass")

    result = run("--genmodel-no-suite")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert message in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_findings_fail_the_test_before_its_body_without_our_traceback(run, pytester, copy):
    from tests.editing import TO_Q, TRANSFORMER, drop_tensors

    drop_tensors(copy / TRANSFORMER, TO_Q)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.invariant("coverage")
        def test_it(): raise SystemExit("the body ran")

        @pytest.mark.invariant("seeded_sampling")
        def test_sample(): pass
        """
    )

    result = run("--genmodel-no-suite", f"--genmodel-ckpt={copy}", candidate=False)

    result.assert_outcomes(failed=1, errors=1)
    text = result.stdout.str()
    assert "GM201 tensor that no file backs (error)" in text
    assert f"where:  transformer: {TO_Q}" in text
    assert "pytest_genmodel/" not in text


def test_several_candidates_make_several_items(run, pytester, copy):
    pytester.makepyfile("import pytest\n@pytest.mark.invariant('coverage')\ndef test_it(candidate): pass")

    result = run("--genmodel-no-suite", f"--genmodel-ckpt={copy}", "--collect-only", "-q")

    names = [line.split("::")[1] for line in result.outlines if "::" in line]
    assert names == ["test_it[cogvideox-i2v-coverage]", "test_it[copy-coverage]"]


def test_marked_test_without_a_candidate_is_skipped_and_says_how(run, pytester):
    pytester.makepyfile("import pytest\n@pytest.mark.invariant('coverage')\ndef test_it(): pass")

    result = run("-rs", candidate=False)

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no candidate was given (--genmodel-ckpt=SPEC)*"])
    run("--genmodel-strict", candidate=False).assert_outcomes(errors=1)


def test_custom_invariant(run, pytester, report):
    pytester.makeconftest(
        """
        from pytest_genmodel import Finding, invariant

        @invariant(code="ACME001")
        def logo_survives(context, *, corner="left"):
            '''The logo stays in its corner.'''
            frame = context.candidate.sample(context.probe).frames[0]
            context.measure(height=frame.shape[1])
            if corner == "right":
                yield Finding("ACME001", "the logo is on the left", location="frame 0")
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.invariant("logo_survives")
        @pytest.mark.invariant("logo_survives", corner="right")
        def test_logo(): pass
        """
    )

    result = run("--genmodel-no-suite", "--genmodel-json=report.json")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["ACME001 logo survives (error)", "  where:  frame 0"])
    good, bad = sorted(report()["verdicts"], key=lambda verdict: verdict["outcome"], reverse=True)
    assert good["measurements"] == {"height": 16}
    assert good["samples_computed"] + bad["samples_computed"] == 1


def test_custom_invariant_may_not_take_a_known_name_or_code(run, pytester):
    pytester.makeconftest(
        """
        from pytest_genmodel import invariant

        @invariant
        def coverage(context): yield from ()
        """
    )

    result = run()

    assert result.ret != 0
    assert "the invariant name 'coverage' is taken" in result.stdout.str() + result.stderr.str()


def test_custom_invariant_that_crashes_is_an_error(run, pytester):
    pytester.makeconftest(
        "from pytest_genmodel import invariant\n@invariant\ndef broken(context):\n    yield context.candidate.nothing"
    )
    pytester.makepyfile("import pytest\n@pytest.mark.invariant('broken')\ndef test_it(): pass")

    result = run("--genmodel-no-suite")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*broken could not be judged: the check itself crashed: AttributeError*conftest.py:4*"]
    )
