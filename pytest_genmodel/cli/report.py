"""`genmodel report REPORT.json -o FILE`: a view of a run that is over: page (without videos), SARIF, Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.reports.report import SCHEMA
from pytest_genmodel.reports.text import size_text
from pytest_genmodel.reports.views import ENDINGS, HTML, VIEWS, view_of
from pytest_genmodel.whole_file import write_whole

FORMATS = (HTML, *VIEWS)
STDOUT = "-"
LEFT_OUT = "the JSON report does not hold them (--genmodel-report shows them)"


def report(source: str, target: str, terminal: Terminal, kind: str | None = None) -> int:
    """Write a view and give the exit status.

    Args:
        source: the JSON report.
        target: the file to write; "-" for stdout.
        terminal: told what was written.
        kind: one of FORMATS; where it is not given, the target's ending says which is meant.

    Raises:
        BadInputError: `source` is no report of this version, or nothing says which view is meant.
    """
    kind = kind or view_of(target)
    if kind is None:
        raise BadInputError(
            f"{target}: say what is to be written (--as {', '.join(FORMATS)}), or end the name with one of "
            f"{', '.join(ENDINGS)}"
        )
    text = _text(kind, source)
    if target == STDOUT:
        terminal.say(text.rstrip("\n"), always=True)
        terminal.document("report", 0, path=None, bytes=len(text.encode("utf-8", "backslashreplace")))
        return 0
    path = Path(target)
    write_whole(path, text)
    size = path.stat().st_size
    terminal.say(f"{target}: {size_text(size)}")
    terminal.document("report", 0, path=target, bytes=size)
    return 0


def _text(kind: str, source: str) -> str:
    from pytest_genmodel.reports.html.page import missing

    if kind == HTML and (problem := missing()):
        raise BadInputError(problem)
    document = _read(Path(source))
    broken: tuple[type[Exception], ...] = (KeyError, TypeError, ValueError, AttributeError)
    if kind == HTML:
        from jinja2 import UndefinedError

        broken += (UndefinedError,)
    try:
        return _page(document) if kind == HTML else VIEWS[kind](document, None)
    except broken as error:
        raise BadInputError(f"{source}: is no whole report ({type(error).__name__}: {error})") from None


def _page(document: dict[str, Any]) -> str:
    from pytest_genmodel.reports.html.page import page

    footage = {
        one["candidate"]: {**one, "pictures": None, "left_out": LEFT_OUT}
        for one in document.get("samples", ())
    }
    return page(document, footage)


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        from pytest_genmodel.runs.saved import read

        return read(path).report
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise BadInputError(f"{path}: is no JSON") from None
    if not isinstance(document, dict) or "verdicts" not in document or "candidates" not in document:
        raise BadInputError(f"{path}: is no report of --genmodel-json")
    if document.get("schema") != SCHEMA:
        raise BadInputError(f"{path}: has schema {document.get('schema')!r}, and {SCHEMA} can be read")
    return document
