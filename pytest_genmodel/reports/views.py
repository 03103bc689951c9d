"""The views of a report that are one text: by the name of the option that asks for them, and by a file's ending.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_genmodel.reports.annotations import workflow_commands
from pytest_genmodel.reports.code_quality import code_quality
from pytest_genmodel.reports.markdown import markdown
from pytest_genmodel.reports.sarif import sarif

View = Callable[[Mapping[str, Any], "Path | None"], str]
"""Gives the text of a report's document, which is as `schema.json` describes it.

The second argument is the workspace, of which paths are told; None: what the CI says, or the current folder.
KeyError, TypeError or ValueError is raised for a document that is none.
"""

VIEWS: Mapping[str, View] = {
    "sarif": sarif,
    "code-quality": code_quality,
    "summary": markdown,
    "annotations": workflow_commands,
}
HTML = "html"
ENDINGS = {
    ".html": HTML,
    ".htm": HTML,
    ".md": "summary",
    ".sarif": "sarif",
    ".json": "code-quality",
}


def view_of(name: str) -> str | None:
    """Which view a file of this name is meant to hold; None where its ending does not say."""
    if name.lower().endswith(".sarif.json"):
        return "sarif"
    return ENDINGS.get(Path(name).suffix.lower())
