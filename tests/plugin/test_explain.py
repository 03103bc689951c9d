"""`pytest --genmodel-explain`: the page of a rule and nothing else: no collection, no model library."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_genmodel.diagnosis.rules import RULES
from tests.plugin.test_cost import HEAVY


@pytest.mark.parametrize("code", ["GM203", "gm203"])
def test_page_is_shown_and_nothing_runs(run, pytester, code):
    pytester.makepyfile("raise SystemExit('collected')")

    result = run(f"--genmodel-explain={code}", candidate=False)

    assert result.ret == pytest.ExitCode.OK
    assert result.outlines[0] == f"GM203: {RULES['GM203'].summary} (error)"
    words = " ".join(result.stdout.str().split())
    assert RULES["GM203"].meaning in words
    assert RULES["GM203"].action in words
    assert "collected" not in words
    assert "test session starts" not in words


def test_unknown_code_is_one_line_with_the_nearest(run):
    result = run("--genmodel-explain", "GM2O3", candidate=False)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    [line] = [line for line in result.errlines if line]
    assert line.startswith("ERROR: --genmodel-explain=GM2O3: no rule has the code GM2O3; did you mean GM2")
    assert result.outlines == []


def test_code_of_the_projects_own_is_explained(run, pytester):
    pytester.makeconftest(
        """
        from pytest_genmodel import invariant

        @invariant(code="ACME007")
        def logo_explained(context):
            '''The logo stays in its corner.'''
            yield from ()
        """
    )

    result = run("--genmodel-explain=acme007", candidate=False)

    assert result.ret == pytest.ExitCode.OK
    assert result.outlines[0] == "ACME007: logo explained (error)"
    assert "  The logo stays in its corner." in result.outlines
    assert "        ACME007: why it is so on purpose" in result.outlines


def test_nothing_heavy_is_imported_and_no_candidate_is_opened(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\ngenmodel_ckpt = no/such/model\n")
    lines = (
        "import sys, pytest\nstatus = pytest.main(['--genmodel-explain=GM203', '-p', 'no:cacheprovider'])\n"
        f"print(int(status), [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "0 []"
