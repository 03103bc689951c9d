"""What an invariant is given: candidate, reference, probe, policy, and a place to work."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_genmodel.diagnosis.allowance import Allowance
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.invariants.contract import Contract, contract_for
from pytest_genmodel.invariants.registry import Level
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.training.command import TIMEOUT

if TYPE_CHECKING:
    from pytest_genmodel.baselines.stand_in import StoredReference, Trusted

NEEDS_WEIGHTS = "needs the reference's weights, and a baseline holds none (--genmodel-ref)"
"""Why a claim is skipped where a baseline is all there is of the reference."""


class DoesNotApplyError(GenmodelError):
    """Raised by an invariant that does not apply: the verdict is skipped, with this reason."""


class CannotJudgeError(GenmodelError):
    """Raised by an invariant that applies and cannot be judged: the verdict is inconclusive, with this reason."""


@dataclass(frozen=True)
class Policy:
    """How a run judges: the expectation (None: none was stated), the level, and whether warnings fail.

    `timeout` is the number of seconds that a training command may take, `echo` is given the lines that it prints,
    `resume_args` are its arguments when a run goes on from an earlier one. `zero_rate` is the rate that stands for
    zero, `train_result` says which of the sets of weights that a trainer leaves is meant, `keep` that work files
    stay, `calibrate` the file that measured floors are kept in. `allow` are findings that are there on purpose.
    `saves` says that the run is saved, so that what a claim compares is kept.
    """

    expect: str | None = None
    level: Level = Level.QUICK
    strict: bool = False
    timeout: float = TIMEOUT
    echo: Callable[[str], None] | None = None
    resume_args: str | None = None
    zero_rate: float = 0.0
    train_result: str | None = None
    keep: bool = False
    calibrate: str | None = None
    allow: tuple[Allowance, ...] = ()
    saves: bool = False


@dataclass
class Context:
    """The session's view of one candidate.

    `measurements` collects numbers for the report, `attachments` texts that belong to a failure (what a trainer
    printed last) by their titles, `compared` the samples that were compared (`samples.SampleComparison`), where the
    run is saved; each judged invariant gets a context with empty ones. `shared` holds, for the whole session, what
    several invariants need and is made once (training runs).
    """

    label: str
    candidate_source: Callable[[], Pipeline]
    reference_source: Callable[[], Pipeline] | None
    probe_source: Callable[[], Probe]
    policy: Policy
    workdir: Path
    measurements: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, str] = field(default_factory=dict)
    compared: list[Any] = field(default_factory=list)
    shared: dict[Any, Any] = field(default_factory=dict)
    baseline: StoredReference | None = None
    """What is on record of the reference, where a baseline was given that holds one."""

    @property
    def candidate(self) -> Pipeline:
        """The pipeline being judged; opened on first use."""
        return self.candidate_source()

    @property
    def reference(self) -> Pipeline:
        """What is trusted.

        Raises:
            DoesNotApplyError: no reference was given.
        """
        if self.reference_source is None:
            raise DoesNotApplyError(
                "no reference was given (--genmodel-ref)" if self.baseline is None else NEEDS_WEIGHTS
            )
        return self.reference_source()

    @property
    def has_reference(self) -> bool:
        """Whether a reference was given."""
        return self.reference_source is not None

    @property
    def trusted(self) -> Trusted:
        """What stands for the reference in a comparison: the reference itself, else the baseline.

        Raises:
            DoesNotApplyError: neither was given.
        """
        from pytest_genmodel.baselines.stand_in import LiveReference

        if self.reference_source is None and self.baseline is not None:
            return self.baseline
        return LiveReference(self.reference)

    @property
    def probe(self) -> Probe:
        """The fixed inputs of the run."""
        return self.probe_source()

    @property
    def contract(self) -> Contract:
        """Which components may differ from the reference, by the stated expectation."""
        worn = self.candidate.checkpoint.adapter is not None
        return contract_for(self.policy.expect, *self.candidate.denoisers, wears_adapter=worn)

    @property
    def is_full(self) -> bool:
        """Whether the level asks for samples even where equality was proven without them."""
        return self.policy.level is Level.FULL

    def measure(self, **values: Any) -> None:
        """Add numbers (or short texts) to the verdict's measurements."""
        self.measurements.update(values)

    def attach(self, title: str, text: str) -> None:
        """Add a text that is shown where the verdict fails, or cannot be given."""
        self.attachments[title] = text

    def skip(self, reason: str) -> NoReturn:
        """Say that the invariant does not apply."""
        raise DoesNotApplyError(reason)

    def cannot_judge(self, reason: str) -> NoReturn:
        """Say that the invariant applies and cannot be judged."""
        raise CannotJudgeError(reason)

    def work_folder(self, name: str) -> Path:
        """A new empty folder that is removed when the session ends."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.workdir))
