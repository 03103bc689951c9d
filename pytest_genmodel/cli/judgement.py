"""From findings to what is allowed of them, an exit status and the line that sums them up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.digest import checkpoint_digest
from pytest_genmodel.checkpoints.progress import Progress
from pytest_genmodel.diagnosis.allowance import Allowance, apply, parse
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity, failing
from pytest_genmodel.errors import BadInputError, GenmodelError


def allowances(texts: Sequence[str]) -> tuple[Allowance, ...]:
    """Read what `--allow` gives; raises BadInputError as `allowance.parse`, with the option's name before it."""
    try:
        return tuple(map(parse, texts))
    except BadInputError as error:
        raise BadInputError(f"--allow={error}") from None


def with_allowed(
    findings: Iterable[Finding],
    allow: Sequence[Allowance],
    candidate: Callable[[], Checkpoint],
    progress: Progress,
) -> list[dict[str, Any]]:
    """The findings as the report spells them; those that are allowed are notes.

    `candidate` gives what an allowance with a digest is held against; it is read where there is one for a finding.
    """

    @cache
    def digest() -> str | None:
        try:
            return checkpoint_digest(candidate(), progress)
        except (GenmodelError, OSError):
            return None

    return [finding.to_json() for finding in apply(findings, allow, digest)]


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
