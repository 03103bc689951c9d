"""From findings to an exit status and the line that sums them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_genmodel.diagnosis.rules import Severity, failing


def exit_status(findings: Sequence[dict[str, Any]], strict: bool) -> int:
    """1 where an error was found, or under `strict` a warning; else 0."""
    fails = failing(strict)
    return int(any(finding["severity"] in fails for finding in findings))


def last_line(findings: Sequence[dict[str, Any]], clean: str) -> str:
    """How many findings of each severity, and where to read about them."""
    counts = [(sum(f["severity"] == severity for f in findings), severity.value) for severity in Severity]
    said = ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts if count)
    if not said:
        return clean
    codes = list(dict.fromkeys(finding["code"] for finding in findings))
    return f"{said} (genmodel explain {codes[0]})"
