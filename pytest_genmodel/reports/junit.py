"""What JUnit XML says of a test case beside its outcome: pytest writes its user properties there.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_genmodel.diagnosis.limit import KEY, measured_text
from pytest_genmodel.reports.text import printable, shortened

MOST_TEXT = 500


def properties(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values for one verdict; of its findings the codes, and place and number of the first that is no note.

    Args:
        verdict: an entry of the report's `verdicts`.
    """
    findings = verdict["findings"]
    said = {
        "candidate": verdict["candidate"],
        "invariant": verdict["invariant"],
        "outcome": verdict["outcome"],
        "seconds": f"{float(verdict['seconds']):.3f}",
        "reason": verdict["reason"],
        "codes": ",".join(sorted({str(finding["code"]) for finding in findings})),
    }
    first = next((finding for finding in findings if finding["severity"] != "note"), None)
    if first is not None:
        said |= {name: first[name] for name in ("code", "severity", "component", "location", "message")}
        limit = first["evidence"].get(KEY)
        said["number"] = measured_text(limit) if isinstance(limit, Mapping) else None
    return [(f"genmodel.{name}", _short(str(value))) for name, value in said.items() if value]


def _short(text: str) -> str:
    return shortened(printable(text).replace("\n", "\\n"), MOST_TEXT)
