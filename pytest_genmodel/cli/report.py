"""`genmodel report REPORT.json -o FILE.html`: the page of a run that is over, without its videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.reports.report import SCHEMA, write_whole
from pytest_genmodel.reports.text import size_text

LEFT_OUT = "the JSON report does not hold them (--genmodel-report shows them)"


def report(source: str, target: str, terminal: Terminal) -> int:
    """Write the page and give the exit status.

    Raises:
        BadInputError: `source` is no report of this version.
    """
    from pytest_genmodel.reports.html.page import missing, page

    if problem := missing():
        raise BadInputError(problem)
    from jinja2 import UndefinedError

    document = _read(Path(source))
    footage = {
        one["candidate"]: {**one, "pictures": None, "left_out": LEFT_OUT}
        for one in document.get("samples", ())
    }
    try:
        text = page(document, footage)
    except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise BadInputError(f"{source}: is no whole report ({type(error).__name__}: {error})") from None
    path = Path(target)
    write_whole(path, text)
    size = path.stat().st_size
    terminal.say(f"{target}: {size_text(size)}")
    terminal.document("report", 0, path=target, bytes=size)
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise BadInputError(f"{path}: is no JSON") from None
    if not isinstance(document, dict) or "verdicts" not in document or "candidates" not in document:
        raise BadInputError(f"{path}: is no report of --genmodel-json")
    if document.get("schema") != SCHEMA:
        raise BadInputError(f"{path}: has schema {document.get('schema')!r}, and {SCHEMA} can be read")
    return document
