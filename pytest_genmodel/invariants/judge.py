"""From a claim to a verdict: the one place where an invariant is run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import failing
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.invariants.context import CannotJudgeError, Context, DoesNotApplyError
from pytest_genmodel.invariants.registry import Invariant
from pytest_genmodel.invariants.verdict import Outcome, Verdict

_log = logging.getLogger("pytest_genmodel")


def judge(invariant: Invariant, context: Context, parameters: Mapping[str, Any]) -> Verdict:
    """Run `invariant` and give its verdict; never raises for what the candidate is.

    Findings of severity error fail, warnings fail under a strict policy, notes never do. What the invariant
    cannot judge (a file that cannot be read, no memory, its own crash) is inconclusive, never passed.
    """
    start = perf_counter()
    context = replace(context, measurements={}, attachments={})
    findings: list[Finding] = []
    reason: str | None = None
    try:
        _check_applies(invariant, context)
        for finding in invariant.function(context, **parameters) or ():
            if not isinstance(finding, Finding):
                context.cannot_judge(
                    f"the invariant {invariant.name} yields findings; it gave a {type(finding).__name__}"
                )
            findings.append(finding)
        outcome = Outcome.PASSED
    except DoesNotApplyError as error:
        outcome, reason = Outcome.SKIPPED, str(error)
    except CannotJudgeError as error:
        outcome, reason = Outcome.INCONCLUSIVE, str(error)
    except AssertionError as error:  # a claim may be written with asserts, as a test is
        findings.append(_failed_assertion(invariant, error))
        outcome = Outcome.FAILED
    except DamagedFileError as error:
        outcome, reason = Outcome.INCONCLUSIVE, f"{error.path.parent.name}/{error}"
    except GenmodelError as error:
        outcome, reason = Outcome.INCONCLUSIVE, str(error)
    except Exception as error:  # a crash must never look like a pass, nor end the session
        outcome, reason = Outcome.INCONCLUSIVE, _crash(invariant, error)
        _log.debug("invariant %s crashed", invariant.name, exc_info=True)
    fails = failing(context.policy.strict)
    if any(
        finding.severity in fails for finding in findings
    ):  # what was found before the check broke off stands
        outcome = Outcome.FAILED
    return Verdict(
        invariant.name,
        outcome,
        perf_counter() - start,
        reason=reason,
        parameters=parameters,
        measurements=context.measurements,
        findings=tuple(findings),
        attachments=context.attachments,
    )


def _check_applies(invariant: Invariant, context: Context) -> None:
    if not context.policy.level.allows(invariant.level):
        context.skip(f"needs --genmodel-level={invariant.level.value}")
    if invariant.needs_reference and not context.has_reference:
        context.skip("no reference was given (--genmodel-ref)")


def _failed_assertion(invariant: Invariant, error: AssertionError) -> Finding:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Finding(
        invariant.code or "GM010",
        str(error).strip() or f"the assertion in line {frame.lineno} of {Path(frame.filename).name} failed",
        location=f"{Path(frame.filename).name}:{frame.lineno}",
    )


def _crash(invariant: Invariant, error: Exception) -> str:
    if _is_out_of_memory(error):
        return "out of memory: judge it on a larger device, or at a lower --genmodel-level"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"the check itself crashed: {what} ({place}; traceback: --log-level=DEBUG)"


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
