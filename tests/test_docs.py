"""The documentation is true: links resolve, named tests exist, pages made from the code are up to date."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from pytest_genmodel.diagnosis.rules import RULES
from pytest_genmodel.invariants.registry import all_invariants
from pytest_genmodel.options import OPTIONS
from pytest_genmodel.suite import SUITE
from tools import rules_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.split("#")[0]).exists(), target


def test_tests_named_on_the_page_of_invariants_exist():
    text = (ROOT / "docs/invariants.md").read_text()
    named = re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 25
    for file, test in named:
        [path] = (ROOT / "tests").rglob(file)
        functions = {
            node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert test in functions, f"{file}::{test}"


def test_every_built_in_invariant_is_on_its_page():
    text = (ROOT / "docs/invariants.md").read_text()
    for claim in (claim for claims in SUITE.values() for claim in claims):
        assert f"`{claim.name}`" in text
        assert claim.invariant in all_invariants()


def test_pages_of_rules_are_up_to_date():
    written = {path.name: path.read_text() for path in rules_page.FOLDER.glob("*.md")}
    assert written == rules_page.pages(), "run: python -m tools.rules_page"


def test_every_rule_is_given_somewhere():
    """A rule that nothing can trigger is a promise that is not kept."""
    folders = (ROOT / "pytest_genmodel" / name for name in ("invariants", "diagnosis", "transformations"))
    files = (path for folder in folders for path in folder.rglob("*.py") if path.parent.name != "rules")
    code = "\n".join(path.read_text() for path in files)
    for rule in RULES:
        assert not rule.startswith("GM") or f'"{rule}"' in code, rule


def test_every_option_in_the_readme_is_one():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"--genmodel-[a-z-]+", text))
    assert {"--genmodel-ckpt", "--genmodel-ref"} <= named <= {option.flag for option in OPTIONS}


def test_version_is_in_the_changelog_or_unreleased():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_shipped_files_are_small_and_name_no_machine():
    data = ROOT / "pytest_genmodel/pipelines/tiny/data"
    files = [path for path in data.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5_000_000
    for path in files:
        if path.suffix == ".json":
            assert "/" + "root" not in path.read_text()
            json.loads(path.read_text())
