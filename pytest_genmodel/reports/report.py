"""One Report for a run, from however many processes; every view is made of it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.reports.counts import count
from pytest_genmodel.whole_file import write_whole

if TYPE_CHECKING:
    from pytest_genmodel.diagnosis.allowance import Allowance

SCHEMA = 1
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
    allow: Sequence[Allowance] = ()
    """What the command line and the ini file allow."""
    suite_size: int = 0
    """Items of the built-in suite, before any was deselected."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in what one item brought: its verdicts, and facts about the environment and the checkpoints."""
        self.verdicts.extend(record["verdicts"])
        self.environment.update(record["environment"])
        self.suite_size = record.get("suite_size", self.suite_size)
        for footage in record.get("samples", ()):
            self._keep(footage)
        for mine, theirs in zip(self.candidates, record["candidates"], strict=True):
            mine.update({key: value for key, value in theirs.items() if value is not None})
        if self.reference is not None and record["reference"]:
            self.reference.update({key: v for key, v in record["reference"].items() if v is not None})

    def _keep(self, footage: dict[str, Any]) -> None:
        known = self.samples.get(footage["candidate"])
        if known is None or _rank(footage) > _rank(known):
            self.samples[footage["candidate"]] = footage

    def of(self, label: str) -> list[dict[str, Any]]:
        """The verdicts about one candidate."""
        return [verdict for verdict in self.verdicts if verdict["candidate"] == label]

    @property
    def summary(self) -> dict[str, int]:
        """How many verdicts of each outcome."""
        return count(self.verdicts)

    @property
    def causes(self) -> list[dict[str, Any]]:
        """The causes of each candidate, the first one leading (`diagnosis.causes`)."""
        from pytest_genmodel.diagnosis.causes import causes

        return [
            {"candidate": candidate["label"], **cause.to_json()}
            for candidate in self.candidates
            for cause in causes(self.of(candidate["label"]))
        ]

    @property
    def checked_nothing(self) -> bool:
        """Whether the run judged nothing: such a run must not be green."""
        return bool(self.verdicts) and all(verdict["outcome"] == "skipped" for verdict in self.verdicts)

    @property
    def is_whole(self) -> bool:
        """Whether all of the built-in suite was judged for every candidate, and the run came to its end."""
        judged = {verdict["id"] for verdict in self.verdicts if str(verdict["id"]).startswith("genmodel::")}
        return self.exit_status in COMPLETE and 0 < self.suite_size == len(judged)

    @property
    def allowances(self) -> list[dict[str, Any]]:
        """What became of the run's allowances; those of markers are told in their verdicts."""
        if not self.allow:
            return []
        from pytest_genmodel.reports.allowances import allowances

        return allowances(self.allow, self.verdicts, whole=self.is_whole)

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
            "causes": self.causes,
            "summary": self.summary,
            "samples": [{**footage, "pictures": None} for _, footage in sorted(self.samples.items())],
            "command": dict(self.command),
            "audit": self.audit,
            "allowances": self.allowances,
            "exit_status": self.exit_status,
            "complete": self.exit_status in COMPLETE,
        }

    def write_json(self, path: Path) -> None:
        """Write the report to `path`, whole or not at all; raises OSError where that cannot be done."""
        write_whole(path, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")

    def write_view(self, name: str, path: Path) -> None:
        """Write one of `views.VIEWS` to `path`, whole or not at all; raises OSError where that cannot be done."""
        from pytest_genmodel.reports.views import VIEWS

        write_whole(path, VIEWS[name](self.to_json(), None))

    def write_html(self, path: Path) -> None:
        """Write the page to `path`, whole or not at all; raises OSError where that cannot be done."""
        from pytest_genmodel.reports.html.page import page

        write_whole(path, page(self.to_json(), self.samples))


def _rank(footage: Mapping[str, Any]) -> tuple[bool, int]:
    """Which of two records of one candidate is the better one: xdist's workers each send theirs."""
    return footage["psnr"] is not None, footage["frames"]


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
