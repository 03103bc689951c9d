"""Run a gate on damaged copies of a model, one fault at a time, and say what the gate says.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from pytest_genmodel.audit.result import ClaimResult, Result
from pytest_genmodel.audit.subject import fine_tuned, write_adapter
from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import failing
from pytest_genmodel.early_checks import check_specs
from pytest_genmodel.errors import BadInputError, GenmodelError
from pytest_genmodel.faults.copy import DoesNotApplyError, clone
from pytest_genmodel.faults.registry import Fault, Place, all_faults
from pytest_genmodel.invariants.registry import Level, find
from pytest_genmodel.invariants.verdict import Outcome, Verdict
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.suite import Claim

if TYPE_CHECKING:
    from pytest_genmodel.settings import Settings


_FRESH_PROCESS = "GM507"
_BY = {"option": "--genmodel-allow", "ini": "genmodel_allow in the ini file,", "marker": "the marker's allow"}

Found = tuple[str, str | None, str | None]
"""A finding, as far as two of them are told apart: code, component, location."""


class CannotAuditError(GenmodelError):
    """The healthy model does not pass the gate, so that a red gate says nothing about a fault."""


def fault_order() -> list[Fault]:
    """Every fault, in an order in which all layers come early: one of each, then the next of each."""
    queues: dict[str, list[Fault]] = {}
    for fault in all_faults().values():
        queues.setdefault(fault.layer, []).append(fault)
    longest = max(map(len, queues.values()), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues.values() if turn < len(queue)]


class Audit:
    """The audit of one gate.

    A copy takes no room but for the files that a fault changes, and is deleted before the next one is made. A claim
    that needs files only is judged for every fault; of the others, the cheapest first, none is judged any more once
    the gate is red. After `seconds` no further fault is begun.
    """

    def __init__(self, genmodel: GenmodelSession, gate: Sequence[Claim], seconds: float) -> None:
        self.gate = tuple(gate)
        self._genmodel = genmodel
        self._seconds = seconds
        self._began: float | None = None
        self._controls: dict[str, dict[str, ClaimResult] | CannotAuditError] = {}
        self._own: dict[str, set[Found]] = {}
        """What is allowed and found without any fault, by kind."""
        self._subjects: dict[str, Path] = {}

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return self._began is not None and monotonic() - self._began > self._seconds

    def run(self, fault: Fault) -> Result:
        """Inject one fault and judge the gate; never raises for what the fault does."""
        if self.is_over:
            return self._result(fault, "not_run", f"the time ({self._seconds:.0f} s) was used up")
        if fault.only_if_trained and self._genmodel.settings.expect != "finetuned":
            return self._result(
                fault, "not_applicable", "nothing says that the candidate was trained (--genmodel-expect)"
            )
        if self._began is None:
            self._began = monotonic()
        began = monotonic()
        folder = self._genmodel.workdir / "audit" / fault.name
        try:
            control = self.control(fault.kind)
            claims = list(self._judged(fault, folder, control))
        except (DoesNotApplyError, CannotAuditError) as error:
            return self._result(fault, "not_applicable", str(error))
        except BadInputError as error:  # a usage error: the run ends before anything is judged
            return self._result(fault, "stopped", str(error), seconds=monotonic() - began)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        outcome, reason = _outcome(claims)
        return self._result(fault, outcome, reason, monotonic() - began, tuple(claims))

    def control(self, kind: str) -> dict[str, ClaimResult]:
        """Judge the healthy model by the whole gate, once for each kind; gives what each claim said.

        Raises:
            CannotAuditError: a claim fails or cannot be judged.
            DoesNotApplyError: faults of this kind cannot be made of this model.
        """
        kind = "adapter" if kind == "adapter" else "checkpoint"
        if kind not in self._controls:
            self._controls[kind] = self._control(kind)
        found = self._controls[kind]
        if isinstance(found, CannotAuditError):
            raise found
        return found

    def _control(self, kind: str) -> dict[str, ClaimResult] | CannotAuditError:
        subject = self._subject(kind)
        session = self._shared.for_candidate(str(subject))
        found = {}
        own = self._own.setdefault(kind, set())
        try:
            check_specs(session)
            for number, claim in enumerate(self.gate):
                self._tell("healthy model", number)
                verdict = session.judge(0, claim.invariant, dict(claim.parameters))
                if verdict.outcome.value in ("failed", "inconclusive"):
                    said = verdict.findings[0].message if verdict.findings else verdict.reason
                    return CannotAuditError(f"the healthy model does not pass {claim.name}: {said}")
                found[claim.name] = _claim_result(claim, verdict)
                own |= {_named(finding) for finding in verdict.findings if finding.allowed}
        except BadInputError as error:
            return CannotAuditError(str(error))
        finally:
            _end(session)
        return found

    @contextmanager
    def injected(self, fault: Fault, folder: Path) -> Iterator[tuple[GenmodelSession, Place]]:
        """A run of the model with the fault in it, and where that sits; `folder` takes the copy, and stays.

        Raises:
            BadInputError: such a checkpoint is refused before anything is judged.
            DoesNotApplyError: the fault cannot be made of this model.
        """
        subject = self._subject(fault.kind)
        broken: AbstractContextManager[None] = nullcontext()
        if fault.kind == "environment":
            path, place, broken = subject, fault.place or Place(None), fault.broken(subject)
            session = GenmodelSession(
                replace(self._settings, candidates=(str(path),)), self._genmodel.progress
            )
        else:
            self._require_room(subject)
            path, place = fault.inject(clone(subject, folder), self._reference_folder)
            session = self._shared.for_candidate(str(path))
        try:
            with broken:
                check_specs(session)
                yield session, place
        finally:
            _end(session)

    def _judged(self, fault: Fault, folder: Path, control: dict[str, ClaimResult]) -> Iterator[ClaimResult]:
        """What the claims say, cheapest first."""
        with self.injected(fault, folder) as (session, _):
            is_red = False
            for number, claim in enumerate(sorted(self.gate, key=lambda c: self._cost(c, control))):
                if is_red and find(claim.invariant).level is not Level.STATIC:
                    continue
                if control[claim.name].outcome == "skipped" and fault.kind == "environment":
                    continue
                self._tell(fault.name, number)
                verdict = session.judge(0, claim.invariant, dict(claim.parameters))
                if fault.kind == "environment":
                    verdict = self.as_everywhere(verdict)
                result = _claim_result(claim, verdict, self._allowed(fault, verdict))
                is_red = is_red or result.outcome in ("failed", "inconclusive")
                yield result

    def as_everywhere(self, verdict: Verdict) -> Verdict:
        """Leave out what only says that a fresh process is not broken: the library is broken in this one alone."""
        kept = tuple(finding for finding in verdict.findings if finding.code != _FRESH_PROCESS)
        fails = failing(self._genmodel.settings.strict)
        if verdict.outcome is Outcome.FAILED and not any(finding.severity in fails for finding in kept):
            return replace(verdict, findings=kept, outcome=Outcome.PASSED)
        return replace(verdict, findings=kept)

    def _allowed(self, fault: Fault, verdict: Verdict) -> str | None:
        """The allowance that made a note of what the fault does, as it was given; None where there is none."""
        own = self._own["adapter" if fault.kind == "adapter" else "checkpoint"]
        for finding in verdict.findings:
            allowed = finding.allowed
            if allowed and allowed["severity"] != "note" and _named(finding) not in own:
                return f"{_BY[allowed['by']]} {allowed['allowance']}"
        return None

    @staticmethod
    def _cost(claim: Claim, control: dict[str, ClaimResult]) -> tuple[bool, float]:
        return find(claim.invariant).level is not Level.STATIC, control[claim.name].seconds

    def _require_room(self, subject: Path) -> None:
        """A fault writes one component at most, or the adapter."""
        folders = [path for path in subject.iterdir() if path.is_dir()] if subject.is_dir() else []
        sizes = [
            sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders
        ]
        needed, free = max(sizes, default=0), shutil.disk_usage(self._genmodel.workdir).free
        if needed > free:
            raise DoesNotApplyError(
                f"the copy needs {needed / 1e9:.1f} GB of temporary space, and {free / 1e9:.1f} GB are free"
            )

    def _tell(self, what: str, number: int) -> None:
        if self._genmodel.progress is not None:
            self._genmodel.progress(what, number, len(self.gate), "claims")

    @cached_property
    def _reference(self) -> Checkpoint | None:
        from pytest_genmodel.pipelines.resolve import resolve

        spec = self._genmodel.settings.reference
        return resolve(spec, self._genmodel.workdir) if spec is not None else None

    @property
    def _reference_folder(self) -> Path | None:
        return self._reference.root if self._reference is not None else None

    @cached_property
    def _candidate(self) -> Checkpoint:
        from pytest_genmodel.pipelines.resolve import resolve

        return resolve(self._genmodel.settings.candidates[0], self._genmodel.workdir)

    @cached_property
    def _settings(self) -> Settings:
        settings = self._genmodel.settings
        reference = str(self._reference_folder) if self._reference_folder is not None else None
        return replace(settings, reference=reference, audit=False)

    @cached_property
    def _shared(self) -> GenmodelSession:
        return GenmodelSession(self._settings, self._genmodel.progress)

    def _subject(self, kind: str) -> Path:
        """The healthy folder that faults of this kind are injected into a copy of."""
        kind = "adapter" if kind == "adapter" else "checkpoint"
        if kind not in self._subjects:
            self._subjects[kind] = self._adapter() if kind == "adapter" else self._whole()
        return self._subjects[kind]

    def _whole(self) -> Path:
        candidate = self._candidate
        if candidate.kind is Kind.PIPELINE and candidate.root != self._reference_folder:
            return candidate.root
        if self._reference_folder is None:
            raise DoesNotApplyError("the candidate is no whole pipeline, and no reference was given")
        if self._genmodel.settings.expect == "finetuned":
            return fine_tuned(self._reference_folder, self._genmodel.workdir / "audit" / "fine-tuned")
        return self._reference_folder

    def _adapter(self) -> Path:
        if self._reference_folder is None:
            raise DoesNotApplyError("a LoRA is judged together with the model it belongs to (--genmodel-ref)")
        if self._candidate.kind is Kind.ADAPTER and self._candidate.root.is_dir():
            return self._candidate.root
        return write_adapter(self._reference_folder, self._genmodel.workdir / "audit" / "adapter")

    @staticmethod
    def _result(
        fault: Fault,
        outcome: str,
        reason: str | None,
        seconds: float = 0.0,
        claims: tuple[ClaimResult, ...] = (),
    ) -> Result:
        return Result(fault.name, fault.summary, fault.layer, fault.kind, outcome, reason, seconds, claims)

    def close(self) -> None:
        """Remove what the audit has written."""
        if "_shared" in vars(self):
            self._shared.close()


def _end(session: GenmodelSession) -> None:
    session.clear_progress()
    session.release()
    session.close()


def _named(finding: Finding) -> Found:
    return finding.code, finding.component, finding.location


def _claim_result(claim: Claim, verdict: Verdict, allowed: str | None = None) -> ClaimResult:
    loud = [finding for finding in verdict.findings if finding.severity and finding.severity.value != "note"]
    first = loud[0] if loud else None
    return ClaimResult(
        claim.name,
        verdict.outcome.value,
        verdict.seconds,
        first.code if first else None,
        first.location if first else None,
        allowed,
    )


def _outcome(claims: Sequence[ClaimResult]) -> tuple[str, str]:
    """The gate's outcome, and why, in words."""
    for wanted, outcome in (("failed", "caught"), ("inconclusive", "stopped")):
        found = next((claim for claim in claims if claim.outcome == wanted), None)
        if found is not None:
            place = (
                f" {found.code} at {found.location}"
                if found.code and found.location
                else f" {found.code or ''}"
            )
            return outcome, f"{found.name}{place}".strip()
    warned = next((claim for claim in claims if claim.code is not None), None)
    allowed = next((claim for claim in claims if claim.allowed is not None), None)
    because = f"allowed by {allowed.allowed} ({allowed.name})" if allowed is not None else None
    if warned is not None:
        said = f"{warned.name} warns ({warned.code}), and a warning fails under --genmodel-strict only"
        return "warned", f"{because}; {said}" if because else said
    return "missed", because or "every claim of the gate holds"
