"""From findings to an exit status and the line that sums them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SEVERITIES = ("error", "warning", "note")


def exit_status(findings: Sequence[dict[str, Any]], strict: bool) -> int:
    """1 where an error was found, or under `strict` a warning; else 0."""
    failing = {"error", "warning"} if strict else {"error"}
    return int(any(finding["severity"] in failing for finding in findings))


def last_line(findings: Sequence[dict[str, Any]], clean: str) -> str:
    """How many findings of each severity, and where to read about them."""
    counts = [(sum(f["severity"] == severity for f in findings), severity) for severity in _SEVERITIES]
    said = ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts if count)
    if not said:
        return clean
    codes = list(dict.fromkeys(finding["code"] for finding in findings))
    return f"{said} (genmodel explain {codes[0]})"
