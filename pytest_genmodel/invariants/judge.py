"""From a claim to a verdict: the one place where an invariant is run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.diagnosis.allowance import ALLOW, Allowance, apply, parse_all, unneeded
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import beyond_tolerance
from pytest_genmodel.diagnosis.rules import failing
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.invariants.context import (
    NEEDS_WEIGHTS,
    CannotJudgeError,
    Context,
    DoesNotApplyError,
)
from pytest_genmodel.invariants.registry import Invariant
from pytest_genmodel.invariants.verdict import Outcome, Verdict
from pytest_genmodel.pipelines.torch_defaults import own_defaults
from pytest_genmodel.pipelines.unusable import unusable_value

_log = logging.getLogger("pytest_genmodel")


def judge(invariant: Invariant, context: Context, parameters: Mapping[str, Any]) -> Verdict:
    """Run `invariant` and give its verdict; never raises for what the candidate is.

    Findings of severity error fail, warnings fail under a strict policy, notes never do. What the invariant
    cannot judge (a file that cannot be read, no memory, its own crash) is inconclusive, never passed. What is
    allowed, by the policy or by `allow` among the parameters, is a note; that a claim cannot be judged, or does not
    apply, is no finding and cannot be allowed.
    """
    start = perf_counter()
    own = parse_all(parameters.get(ALLOW, ()))
    arguments = {name: value for name, value in parameters.items() if name != ALLOW}
    context = replace(context, measurements={}, attachments={}, compared=[])
    findings: list[Finding] = []
    reason: str | None = None
    to_its_end = False
    try:
        _check_applies(invariant, context)
        with own_defaults() if _is_ours(invariant) else nullcontext():
            for finding in invariant.function(context, **arguments) or ():
                if not isinstance(finding, Finding):
                    context.cannot_judge(
                        f"the invariant {invariant.name} yields findings; it gave a {type(finding).__name__}"
                    )
                findings.append(finding)
        outcome, to_its_end = Outcome.PASSED, True
    except DoesNotApplyError as error:
        outcome, reason = Outcome.SKIPPED, str(error)
    except CannotJudgeError as error:
        outcome, reason = Outcome.INCONCLUSIVE, str(error)
    except AssertionError as error:  # a claim may be written with asserts, as a test is
        findings.append(_failed_assertion(invariant, error))
        outcome = Outcome.PASSED  # what was found says whether it fails, as for every other
    except DamagedFileError as error:
        outcome, reason = Outcome.INCONCLUSIVE, f"{error.path.parent.name}/{error}"
    except GenmodelError as error:
        outcome, reason = Outcome.INCONCLUSIVE, str(error)
    except Exception as error:  # a crash must never look like a pass, nor end the session
        outcome, reason = Outcome.INCONCLUSIVE, _by_configuration(invariant, context, error)
        reason = reason or _crash(invariant, error)
        _log.debug("invariant %s crashed", invariant.name, exc_info=True)
    findings = list(apply(findings, (*own, *context.policy.allow), lambda: _digest(context)))
    if to_its_end:
        findings += [_not_needed(allowance) for allowance in unneeded(own, [f.to_json() for f in findings])]
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
        compared=tuple(context.compared),
    )


def _is_ours(invariant: Invariant) -> bool:
    """Whether a claim is built in; a project's own sees torch as its conftest has set it."""
    return invariant.function.__module__.startswith("pytest_genmodel.")


def _digest(context: Context) -> str | None:
    try:
        return context.candidate.digest
    except (GenmodelError, OSError):
        return None


def _not_needed(allowance: Allowance) -> Finding:
    return Finding(
        "GM030", f"{allowance.target} is allowed by the marker and was not found: remove it", location="allow"
    )


def _check_applies(invariant: Invariant, context: Context) -> None:
    if not context.policy.level.allows(invariant.level):
        context.skip(f"needs --genmodel-level={invariant.level.value}")
    if invariant.needs_reference and not context.has_reference:
        if context.baseline is None:
            context.skip("no reference was given (--genmodel-ref)")
        if not invariant.takes_baseline:
            context.skip(NEEDS_WEIGHTS)
        context.measure(baseline={"made_of": context.baseline.spec, "digest": context.baseline.digest})


def _failed_assertion(invariant: Invariant, error: AssertionError) -> Finding:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Finding(
        invariant.code or "GM010",
        str(error).strip() or f"the assertion in line {frame.lineno} of {Path(frame.filename).name} failed",
        location=f"{Path(frame.filename).name}:{frame.lineno}",
        evidence=_apart(error),
    )


def _apart(error: AssertionError) -> dict[str, Any]:
    """How far the tensors of an `assert_close` are apart, where the assertion is one."""
    comparisons = getattr(error, "comparisons", None)
    if not comparisons or not getattr(error, "same_structure", False):
        return {}
    worst = sorted(comparisons.values(), key=lambda one: one is not getattr(error, "comparison", None))
    return beyond_tolerance(worst)


def _by_configuration(invariant: Invariant, context: Context, error: Exception) -> str | None:
    """What a configuration holds that no code can work with, where a claim of ours broke off; None without."""
    if not _is_ours(invariant) or _is_out_of_memory(error):
        return None
    try:
        opened = [context.candidate, *([context.reference] if context.has_reference else [])]
        for pipeline in opened:
            if odd := unusable_value(pipeline.checkpoint):
                what = first_line(error)
                return f"{odd.path.parent.name}/{odd} (it ends in {type(error).__name__}: {what})"
    except Exception:  # the crash itself is said then
        _log.debug("the configurations could not be looked at", exc_info=True)
    return None


def _crash(invariant: Invariant, error: Exception) -> str:
    if _is_out_of_memory(error):
        return "out of memory: judge it on a larger device, or at a lower --genmodel-level"
    frames = traceback.extract_tb(error.__traceback__)
    file = getattr(getattr(invariant.function, "__code__", None), "co_filename", None)
    # of a project's claim its own line is told: the innermost one may be anywhere in a library
    mine = [] if invariant.is_ours else [frame for frame in frames if frame.filename == file]
    frame = [*frames, *mine][-1]
    message = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(message) > 1 and message[0].endswith(":"):  # as diffusers says what it could not import
        message[0] += f" {message[-1]}"
    what = f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"the check itself crashed: {what} ({place}; traceback: --log-level=DEBUG)"


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
