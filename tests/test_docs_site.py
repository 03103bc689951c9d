"""The documentation site builds without a warning, hangs together, and asks nothing of the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

import pytest_genmodel
from pytest_genmodel import strategies
from tools import reference_pages
from tools.site_hooks import within

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning of the strict build fails whoever asks for it."""
    folder = tmp_path_factory.mktemp("site")
    ran = _build(ROOT / "mkdocs.yml", folder)
    assert ran.returncode == 0, ran.stdout
    assert "WARNING" not in ran.stdout, ran.stdout
    return folder


def _build(config, folder):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_every_page_is_built_and_in_the_navigation(site):
    for page in PAGES:
        inside = page.relative_to(ROOT / "docs").with_suffix("")
        folder = inside.parent if inside.name in ("index", "README") else inside
        html = (site / folder / "index.html").read_text(encoding="utf-8")
        assert "md-nav__link--active" in html, f"{page.name} is in no section of the navigation"


def test_every_internal_link_leads_to_a_page_and_a_place_that_are_there(site):
    texts = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    places = {path: set(re.findall(r'\sid="([^"]+)"', text)) for path, text in texts.items()}
    followed = 0
    for path, text in texts.items():
        if path.name != "index.html":  # 404.html is shown at any address; reports are pages of their own
            continue
        for link in set(re.findall(r'<a\s[^>]*?href="([^"]+)"', text)):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = unescape(link).partition("#")
            file = (path.parent / unquote(target)).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            assert file.exists(), f"{path.relative_to(site)}: {link}"
            if anchor and file in places and not anchor.startswith("__"):
                assert unquote(anchor) in places[file], f"{path.relative_to(site)}: {link}"
            followed += 1
    assert followed > 1000


def test_site_asks_nothing_of_the_network(site):
    """No script, style, font or picture comes from elsewhere."""
    for path in site.rglob("*.html"):
        loads = re.findall(
            r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]+)"', path.read_text()
        )
        assert loads == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", path.read_text()), path


def test_a_place_that_is_not_there_is_a_warning_that_fails_the_build(tmp_path):
    """The strictness itself: a page of two lines with a wrong anchor."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Home\n\n[there](index.md#nowhere)\n")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    hooks = "hooks:\n  - tools/site_hooks.py\n"
    assert hooks in text
    (tmp_path / "mkdocs.yml").write_text(text.replace(hooks, ""))
    ran = _build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert ran.returncode != 0
    assert "#nowhere" in ran.stdout


def test_every_public_name_is_on_the_page_of_the_api():
    text = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    documented = {name.rpartition(".")[2] for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)}
    public = {*pytest_genmodel.__all__, *strategies.__all__} - {"__version__"}
    assert public <= documented, public - documented


@pytest.mark.parametrize("name", reference_pages.PAGES)
def test_reference_page_is_up_to_date(name):
    text = (reference_pages.FOLDER / name).read_text(encoding="utf-8")
    assert text == reference_pages.PAGES[name](), "run: python -m tools.reference_pages"


def test_every_option_that_a_page_names_is_one(tmp_path):
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    known = set(re.findall(r"--genmodel-[a-z-]+", shown))
    assert len(known) > 20
    for page in PAGES:
        named = set(re.findall(r"--genmodel-[a-z]+(?:-[a-z]+)*(?![\w-])", page.read_text(encoding="utf-8")))
        assert named <= known, f"{page.name}: {', '.join(sorted(named - known))}"


@pytest.mark.parametrize(
    ("path", "written", "shown"),
    [
        ("docs/a.md", "[the script](../examples/b.py)", "the script (`examples/b.py`)"),
        ("docs/a/b.md", "[`examples/b.py`](../../examples/b.py)", "`examples/b.py`"),
        ("docs/a/b.md", "[log](../../CHANGELOG.md#x)", "[log](../changelog.md#x)"),
        ("docs/a.md", "[b](b.md#c) and [home](../README.md)", "[b](b.md#c) and [home](index.md)"),
        ("", "[b](docs/b.md)", "[b](b.md)"),
        ("docs/a.md", "[out](https://example.org/../x)", "[out](https://example.org/../x)"),
        ("docs/a.md", "```\n[x](../y)\n```\n", "```\n[x](../y)\n```\n"),
    ],
)
def test_link_out_of_the_pages_becomes_text(path, written, shown):
    assert within(written, path) == shown
