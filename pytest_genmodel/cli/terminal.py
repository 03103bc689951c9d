"""Where the command writes: text to stdout in the terminal's width, progress and complaints to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from pytest_genmodel.checkpoints.progress import Progress, silent
from pytest_genmodel.reports.progress_bar import ProgressBar, ProgressLines, ProgressView
from pytest_genmodel.reports.report import plain
from pytest_genmodel.reports.text import finding_text, printable

WIDTH_OF_A_FILE = 100
"""Columns where nobody has a terminal."""
SCHEMA = 1
"""Version of the JSON documents; another number, and a reader of the old form would break."""
_COLOURS = {"error": "31;1", "warning": "33", "note": "36", "good": "32"}


class Terminal:
    """What the command writes to; `close` takes progress away.

    Args:
        as_json: text is left out, `document` is written.
        quiet: of the text only findings and complaints are written, and no progress.
        progress: whether progress is shown at all.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, progress: bool = True) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._out, self._err = sys.stdout, sys.stderr
        self._view = _view(self._err) if progress and not quiet else None
        self._coloured = _is_terminal(self._out) and not os.environ.get("NO_COLOR")
        self.width = shutil.get_terminal_size((WIDTH_OF_A_FILE, 24)).columns
        if not _is_terminal(self._out) and not os.environ.get("COLUMNS"):
            self.width = WIDTH_OF_A_FILE

    @property
    def out(self) -> TextIO:
        """Where text goes."""
        return self._out

    @property
    def progress(self) -> Progress:
        """Where progress is told."""
        return self._view or silent

    def say(self, lines: str | Iterable[str] = "", *, always: bool = False, like: str | None = None) -> None:
        """Write lines of text; under `quiet` only what must be said `always`. `like` a severity, so coloured."""
        if self.as_json or (self.quiet and not always):
            return
        if self._view is not None:
            self._view.clear()
        for line in [lines] if isinstance(lines, str) else lines:
            shown = f"\x1b[{_COLOURS[like]}m{line}\x1b[0m" if like and self._coloured else line
            self._out.write(f"{_encodable(shown, self._out)}\n")
        self._out.flush()

    def findings(self, findings: Iterable[dict[str, Any]]) -> None:
        """Write findings, each with what, why and what to do."""
        for finding in findings:
            first, *rest = finding_text(finding, self.width).splitlines()
            self.say("", always=True)
            self.say(first, always=True, like=finding["severity"])
            self.say(rest, always=True)

    def document(self, command: str, exit_status: int, **values: Any) -> None:
        """Write the one JSON document of a command, if JSON was asked for."""
        if not self.as_json:
            return
        from pytest_genmodel._version import __version__

        tool = {"name": "pytest-genmodel", "version": __version__}
        whole = {"schema": SCHEMA, "tool": tool, "command": command, **values, "exit_status": exit_status}
        if self._view is not None:
            self._view.clear()
        self._out.write(json.dumps(plain(whole), indent=2, allow_nan=False))
        self._out.write("\n")
        self._out.flush()

    def complain(self, message: str) -> None:
        """Write one line to stderr."""
        if self._view is not None:
            self._view.clear()
        line = " ".join(printable(message).split("\n"))
        self._err.write(f"genmodel: {_encodable(line, self._err)}\n")
        self._err.flush()

    def abandon(self) -> None:
        """Nobody reads what is written: let the interpreter not try again when it ends."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())

    def close(self) -> None:
        """Take progress away."""
        if self._view is not None:
            self._view.clear()


def _view(stream: TextIO) -> ProgressView:
    def write(text: str) -> None:
        stream.write(_encodable(text, stream))
        stream.flush()

    if _is_terminal(stream):
        return ProgressBar(write, lambda: shutil.get_terminal_size().columns - 3)  # an echoed ^C takes two
    return ProgressLines(lambda line: write(f"{line}\n"))


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _encodable(text: str, stream: TextIO) -> str:
    """What the stream can take: a locale of ASCII must not end the command with a traceback."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
