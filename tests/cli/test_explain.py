"""`genmodel explain`: the page of a rule, without torch; an unknown code names the nearest."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

from pytest_genmodel.diagnosis.rules import RULES
from pytest_genmodel.invariants.said_by import said_by
from tests.plugin.test_cost import HEAVY
from tools import rules_page


def test_a_rule_is_explained_in_its_own_words(genmodel):
    done = genmodel("explain", "GM203")

    words = " ".join(done.out.split())
    rule = RULES["GM203"]
    assert (done.status, done.err) == (0, "")
    assert words.startswith(f"GM203: {rule.summary} (error)")
    assert rule.meaning in words
    assert f"How to fix it {rule.action}" in words
    assert max(map(len, done.out.splitlines())) <= 80


def test_page_shows_thread_example_invariants_faults_and_how_to_allow(genmodel):
    out = genmodel("explain", "GM203").out

    rule = RULES["GM203"]
    assert "\n  - https://github.com/zai-org/CogVideo/issues/374\n" in out
    assert textwrap.indent(rule.example, "    ") in out
    assert "`coverage`" in out
    assert "- `lora_still_attached`: " in out
    assert '--genmodel-allow="GM203: why it is so on purpose"' in out


def test_page_on_the_terminal_is_the_page_of_the_documentation(genmodel):
    for code in ("GM203", "GM412", "GM010", "GM306"):
        shown = [
            line for line in genmodel("explain", code).out.splitlines() if line and not line[0].isspace()
        ]
        document = (rules_page.FOLDER / f"{code}.md").read_text()
        assert shown[1:] == re.findall(r"^## (.*)", document, re.MULTILINE)


def test_invariant_that_is_a_folder_of_modules_says_the_codes_of_all_of_them():
    assert said_by("GM930") == ("absolute_checks",)
    assert "coverage" in said_by("GM203")
    assert said_by("GM000") == ()


def test_case_does_not_matter(genmodel):
    assert genmodel("explain", "gm203").out == genmodel("explain", "GM203").out


@pytest.mark.parametrize("code", ["GM2O3", "gm299", "203"])
def test_an_unknown_code_names_the_nearest(genmodel, code):
    done = genmodel("explain", code)

    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert f"no rule has the code {code}; did you mean GM2" in done.err


def test_nothing_near_is_no_guess(genmodel):
    assert "did you mean" not in genmodel("explain", "banana").err


def test_without_a_code_every_rule_is_listed(genmodel):
    lines = genmodel("explain").out.splitlines()

    assert [line.split()[0] for line in lines[1:]] == sorted(RULES)
    assert max(map(len, lines)) <= 80


def test_json_holds_the_page(genmodel):
    value = genmodel("explain", "--json", "GM203").json

    assert (value["schema"], value["command"], value["exit_status"]) == (1, "explain", 0)
    assert value["tool"]["name"] == "pytest-genmodel"
    [rule] = value["rules"]
    assert (rule["code"], rule["severity"]) == ("GM203", "error")
    for key in ("meaning", "action", "example"):
        assert rule[key] == getattr(RULES["GM203"], key)
    assert rule["seen_in"] == list(RULES["GM203"].seen_in)
    assert len(genmodel("explain", "--json").json["rules"]) == len(RULES)


def test_explaining_imports_nothing_heavy():
    lines = (
        "import sys\nfrom pytest_genmodel.cli.main import main\nmain(['explain', 'GM203'])\n"
        f"print([name for name in {(*HEAVY, 'huggingface_hub')!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_code_of_a_project_is_sought_where_its_conftest_is_read(genmodel):
    done = genmodel("explain", "NOBODYS1")

    assert done.status == 2
    assert "one of your project: pytest --genmodel-explain=NOBODYS1)" in done.err
