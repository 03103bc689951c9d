"""Hooks of the documentation site (mkdocs.yml): what lies outside of docs/ and is linked from there.

The pages are read on a git forge too, where `../examples/x.py` is a link that works. The site has no such file: there
the link becomes its text and the file's path. The changelog becomes a page of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
AS_PAGES = {"CHANGELOG.md": "changelog.md", "README.md": "index.md"}
"""Files of the repository that have a page of their own, by its place in docs/."""
_FENCED = re.compile(r"(^ *```.*?^ *```[^\n]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the changelog."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=within(text, "")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links that lead out of docs/."""
    return markdown if page.file.src_uri == "changelog.md" else within(markdown, f"docs/{page.file.src_uri}")


def within(markdown: str, path: str) -> str:
    """Give a page's text without links that leave docs/.

    Args:
        markdown: the text; fenced code is left alone.
        path: where the page lies in the repository; "" for the changelog, which is shown from docs/.
    """

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        full = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        inside = AS_PAGES.get(full) or (full.removeprefix("docs/") if full.startswith("docs/") else None)
        if inside is None:
            return text if full in text else f"{text} (`{full}`)"
        start = posixpath.dirname(path.removeprefix("docs/")) or "."
        return f"[{text}]({posixpath.relpath(inside, start)}{anchor})"

    parts = _FENCED.split(markdown)
    return "".join(part if number % 2 else _LINK.sub(link, part) for number, part in enumerate(parts))
