"""Running the command: in this process for what it writes, in one of its own for what it imports and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_genmodel.cli.main import main
from pytest_genmodel.reports.report import SCHEMA_FILE


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out)
        return value

    @property
    def codes(self) -> list[str]:
        return [finding["code"] for finding in self.json["findings"]]


@pytest.fixture
def genmodel(capsys, monkeypatch) -> Callable[..., Done]:
    """Call the command in this process, in a terminal's width of 80."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = int(error.code or 0)
        written = capsys.readouterr()
        return Done(status, written.out, written.err)

    return call


def check_findings(findings: list[dict[str, Any]]) -> None:
    """Findings are spelled as the report's schema says."""
    schema = json.loads(SCHEMA_FILE.read_text())
    one = {"$defs": schema["$defs"], "type": "array", "items": {"$ref": "#/$defs/finding"}}
    jsonschema.validate(findings, one)
