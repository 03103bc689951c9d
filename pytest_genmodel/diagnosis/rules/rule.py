"""What a rule is made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """How much a finding weighs: an error fails its verdict, a warning only under `--genmodel-strict`."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


def failing(strict: bool) -> frozenset[Severity]:
    """The severities that fail a verdict, or make the command say that something was found."""
    return frozenset({Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR})


@dataclass(frozen=True)
class Rule:
    """One kind of fault: `summary` names it, `meaning` says why it matters, `action` what to do first.

    `seen_in` are addresses of public threads and changes in which the fault was met. `example` is a minimal one, in
    one to six lines of at most 80 columns: the code that makes it, or the files, names or values that show it.
    """

    code: str
    summary: str
    meaning: str
    action: str
    severity: Severity = Severity.ERROR
    seen_in: tuple[str, ...] = ()
    example: str = ""
