"""Where a marker stands: every place is judged, or refused; none is passed over."""

from __future__ import annotations

import pytest


def names(result):
    return [line.split("::", 1)[1] for line in result.outlines if "::" in line]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            """
            @pytest.mark.invariant("coverage")
            class TestIt:
                def test_a(self): pass
                @staticmethod
                def test_b(): pass
                @classmethod
                def test_c(cls): pass
            """,
            ["TestIt::test_a[coverage]", "TestIt::test_b[coverage]", "TestIt::test_c[coverage]"],
        ),
        (
            """
            pytestmark = pytest.mark.invariant("coverage")
            def test_a(): pass
            """,
            ["test_a[coverage]"],
        ),
        (
            """
            @pytest.mark.invariant("coverage")
            @pytest.mark.parametrize("n", [1, 2])
            def test_a(n): pass
            """,
            ["test_a[coverage-1]", "test_a[coverage-2]"],
        ),
        (
            """
            class Base:
                def test_a(self): pass
            @pytest.mark.invariant("coverage")
            class TestMarked(Base): pass
            class TestPlain(Base): pass
            """,
            ["TestMarked::test_a[coverage]", "TestPlain::test_a"],
        ),
    ],
    ids=["class", "module", "parametrize", "shared function"],
)
def test_marker_is_judged_wherever_pytest_makes_items_of_it(run, pytester, source, expected):
    import textwrap

    pytester.makepyfile("import pytest\n" + textwrap.dedent(source))
    arguments = ("--genmodel-no-suite", "--genmodel-level=static")

    assert sorted(names(run(*arguments, "--collect-only", "-q"))) == sorted(expected)
    run(*arguments).assert_outcomes(passed=len(expected))


def test_other_names_of_test_functions_are_judged_too(run, pytester):
    pytester.makeini("[pytest]\npython_functions = check_*\n")
    pytester.makepyfile("import pytest\n@pytest.mark.invariant('coverage')\ndef check_it(): pass")

    assert names(run("--genmodel-no-suite", "--collect-only", "-q")) == ["check_it[coverage]"]


@pytest.mark.parametrize(
    "source",
    [
        """
        import unittest, pytest
        class TestIt(unittest.TestCase):
            @pytest.mark.invariant("coverage")
            def test_a(self): pass
        """,
        """
        import pytest
        @pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.invariant("coverage"))])
        def test_a(n): pass
        """,
    ],
    ids=["unittest", "pytest.param"],
)
def test_marker_that_would_be_passed_over_is_refused(run, pytester, source):
    import textwrap

    pytester.makepyfile(textwrap.dedent(source))

    result = run("--genmodel-no-suite")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_a*would not be judged*"])


def test_marker_added_after_items_were_made_is_refused(run, pytester):
    pytester.makeconftest(
        "import pytest\ndef pytest_itemcollected(item): item.add_marker(pytest.mark.invariant('coverage'))"
    )
    pytester.makepyfile("def test_a(): pass")

    assert run("--genmodel-no-suite").ret == pytest.ExitCode.USAGE_ERROR


def test_marker_without_a_fixture_is_judged_for_each_candidate(run, pytester, copy):
    pytester.makepyfile("import pytest\n@pytest.mark.invariant('coverage')\ndef test_it(): pass")
    arguments = ("--genmodel-no-suite", f"--genmodel-ckpt={copy}", "--genmodel-level=static")

    assert names(run(*arguments, "--collect-only", "-q")) == [
        "test_it[cogvideox-i2v-coverage]",
        "test_it[copy-coverage]",
    ]
    run(*arguments).assert_outcomes(passed=2)


def test_wrong_trainer_is_a_collection_error(run, pytester):
    pytester.makepyfile(
        "import pytest\n@pytest.mark.invariant('zero_lr_identity', trainer='lroa')\ndef test_it(): pass"
    )

    result = run("--genmodel-no-suite")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "did you mean 'lora'" in result.stdout.str()


@pytest.mark.parametrize(
    ("body", "outcome", "text"),
    [
        ("assert 1 == 2, 'the logo is gone'", {"failed": 1}, "the logo is gone"),
        ("yield 'a finding'", {"errors": 1}, "yields findings; it gave a str"),
        ("return None", {"passed": 1}, "1 passed"),
        (
            "import torch; from pytest_genmodel import assert_close; assert_close(torch.ones(3), torch.zeros(3))",
            {"failed": 1},
            "          worst       at",
        ),
    ],
    ids=["assert", "no finding", "none", "assert_close"],
)
def test_custom_invariant_may_be_written_with_asserts(run, pytester, body, outcome, text):
    pytester.makeconftest(
        f"from pytest_genmodel import invariant\n@invariant(level='static')\ndef mine(context):\n    {body}\n"
    )
    pytester.makepyfile("import pytest\n@pytest.mark.invariant('mine')\ndef test_it(): pass")

    result = run("--genmodel-no-suite")

    result.assert_outcomes(**outcome)
    assert text in result.stdout.str()


def test_numbers_of_other_libraries_reach_the_report_from_workers(run, pytester, report):
    pytester.makeconftest(
        """
        from pytest_genmodel import Finding, invariant

        @invariant(level="static")
        def numbers(context):
            import numpy, torch
            context.measure(a=numpy.float32(0.5), b=torch.tensor(2), c=float("nan"), d=(1, {"e": float("inf")}))
            return ()
        """
    )
    pytester.makepyfile("import pytest\n@pytest.mark.invariant('numbers')\ndef test_it(): pass")

    result = run("--genmodel-no-suite", "--genmodel-json=report.json", "-n", "1", subprocess=True)

    result.assert_outcomes(passed=1)
    assert report()["verdicts"][0]["measurements"] == {"a": 0.5, "b": 2, "c": "nan", "d": [1, {"e": "inf"}]}


def test_newest_first_does_not_need_a_file(run):
    run("--nf", "-k", "coverage", "--genmodel-level=static").assert_outcomes(passed=1)
