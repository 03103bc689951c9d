"""Write the page: a Jinja template that escapes everything, one style, one script, nothing from elsewhere.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.reports.html import plots
from pytest_genmodel.reports.html.view import flat, limits, view
from pytest_genmodel.reports.text import printable

HERE = Path(__file__).parent
MOST_BYTES = 10_000_000
EXTRA = "pip install 'pytest-genmodel[report]'"


def missing() -> str | None:
    """What keeps the page from being made, in one line; None where nothing does."""
    return None if find_spec("jinja2") else f"the HTML report needs jinja2: {EXTRA}"


def page(document: Mapping[str, Any], footage: Mapping[str, Mapping[str, Any]]) -> str:
    """The report as one HTML page; where it would be larger than `MOST_BYTES`, it says which pictures it leaves out.

    Args:
        document: the report as `schema.json` describes it.
        footage: for a candidate's label what was sampled of it, as `footage.film` gives it.

    Raises:
        BadInputError: jinja2 is not installed.
    """
    if problem := missing():
        raise BadInputError(problem)
    content = view(document, footage)
    text = _rendered(content)
    for kept in ("sheets", "nothing"):
        if len(text.encode("utf-8")) < MOST_BYTES:
            break
        for candidate in content["candidates"]:
            candidate["footage"] = _less(candidate["footage"], kept)
        text = _rendered(content)
    return text


def _less(footage: Mapping[str, Any] | None, kept: str) -> Mapping[str, Any] | None:
    if footage is None or footage["pictures"] is None:
        return footage
    pictures = footage["pictures"]
    if kept == "nothing":
        return {**footage, "pictures": None, "left_out": "they would make the page larger than 10 MB"}
    return {**footage, "pictures": {**pictures, "together": None}}


def _rendered(content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def shown(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    environment.filters["breakable"] = lambda value: Markup(
        re.sub(r"([._:/]+)", r"\1<wbr>", str(escape(printable(str(value)))))
    )
    environment.filters["flat"] = lambda value: list(flat(value))
    environment.filters["limits"] = limits
    script = (HERE / "page.js").read_text(encoding="utf-8").strip()
    return environment.get_template("page.html.j2").render(
        **content,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8").strip()),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        svg=lambda text: Markup(text),
        can_plot=plots.available(),
        extra=EXTRA,
    )
