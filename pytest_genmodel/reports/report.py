"""One Report for a run, from however many processes; every view is made of it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from secrets import token_hex
from typing import Any

SCHEMA = 1
OUTCOMES = ("passed", "failed", "skipped", "inconclusive")
COMPLETE = (0, 1)
"""Exit statuses of a run that came to its end; an interrupted one has judged less than it was asked to."""
SCHEMA_FILE = Path(__file__).with_name("schema.json")


@dataclass
class Report:
    """The verdicts of a run and what they are about.

    `verdicts`, `candidates` and `environment` hold what the JSON schema says; workers of pytest-xdist send theirs
    with the reports of their items.
    """

    candidates: list[dict[str, Any]]
    reference: dict[str, Any] | None
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    exit_status: int = 0
    command: dict[str, str] = field(default_factory=dict)
    """How to run it again: `line` as it was given, `options` those that say how is judged."""
    samples: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For a candidate's label what was sampled of it (`html.footage.film`), where the HTML report was asked for."""
    audit: dict[str, Any] | None = None
    """What an audit found of the gate; None where none was asked for."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in what one item brought: its verdicts, and facts about the environment and the checkpoints."""
        self.verdicts.extend(record["verdicts"])
        self.environment.update(record["environment"])
        for footage in record.get("samples", ()):
            self._keep(footage)
        for mine, theirs in zip(self.candidates, record["candidates"], strict=True):
            mine.update({key: value for key, value in theirs.items() if value is not None})
        if self.reference is not None and record["reference"]:
            self.reference.update({key: v for key, v in record["reference"].items() if v is not None})

    def _keep(self, footage: dict[str, Any]) -> None:
        from pytest_genmodel.reports.html.footage import rank

        known = self.samples.get(footage["candidate"])
        if known is None or rank(footage) > rank(known):
            self.samples[footage["candidate"]] = footage

    def of(self, label: str) -> list[dict[str, Any]]:
        """The verdicts about one candidate."""
        return [verdict for verdict in self.verdicts if verdict["candidate"] == label]

    @property
    def summary(self) -> dict[str, int]:
        """How many verdicts of each outcome."""
        return count(self.verdicts)

    @property
    def checked_nothing(self) -> bool:
        """Whether the run judged nothing: such a run must not be green."""
        return bool(self.verdicts) and all(verdict["outcome"] == "skipped" for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """The report as `schema.json` describes it."""
        from pytest_genmodel._version import __version__

        return {
            "schema": SCHEMA,
            "tool": {"name": "pytest-genmodel", "version": __version__},
            "environment": dict(self.environment),
            "candidate": self.candidates[0] if len(self.candidates) == 1 else None,
            "candidates": self.candidates,
            "reference": self.reference,
            "verdicts": sorted(self.verdicts, key=lambda verdict: str(verdict["id"])),
            "summary": self.summary,
            "samples": [{**footage, "pictures": None} for _, footage in sorted(self.samples.items())],
            "command": dict(self.command),
            "audit": self.audit,
            "exit_status": self.exit_status,
            "complete": self.exit_status in COMPLETE,
        }

    def write_json(self, path: Path) -> None:
        """Write the report to `path`, whole or not at all; raises OSError where that cannot be done."""
        write_whole(path, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    def write_html(self, path: Path) -> None:
        """Write the page to `path`, whole or not at all; raises OSError where that cannot be done."""
        from pytest_genmodel.reports.html.page import page

        write_whole(path, page(self.to_json(), self.samples))


def write_whole(path: Path, text: str) -> None:
    """Write a file at once: whoever reads sees the old one or the new one; folders are made.

    Raises:
        OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{token_hex(4)}")
    try:
        with beside.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def plain(value: Any) -> Any:
    """What JSON and pytest-xdist can carry: numbers of other libraries as Python's, NaN and Inf as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if isfinite(value) else str(float(value))
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if getattr(value, "size", None) == 1 or getattr(value, "ndim", None) == 0:  # a numpy or torch scalar
        return plain(value.item())
    return str(value)


def count(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many verdicts of each outcome."""
    counted = Counter(verdict["outcome"] for verdict in verdicts)
    return {outcome: counted[outcome] for outcome in OUTCOMES}
