"""The audit in pytest: one item for each fault, in place of the suite's own items.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_genmodel.audit.audit import Audit, CannotAuditError, fault_order
from pytest_genmodel.audit.result import ClaimResult, Result, Score
from pytest_genmodel.collection import ROOT, GenmodelItem, SuiteItem
from pytest_genmodel.faults.copy import DoesNotApplyError
from pytest_genmodel.markers import CLAIM_FIXTURE
from pytest_genmodel.outcomes import skip
from pytest_genmodel.stash import REPORT
from pytest_genmodel.suite import Claim

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from pytest_genmodel.faults.registry import Fault
    from pytest_genmodel.session import GenmodelSession

GROUP = "audit"
CONTROL = "control"
RECORD = pytest.StashKey[dict[str, Any]]()


class AuditGroup(pytest.Collector):
    """The control run and the faults."""

    plugin: AuditPlugin

    def collect(self) -> Iterator[pytest.Item]:
        """The control first, then the faults in an order in which every layer comes early."""
        yield AuditItem.from_parent(self, name=CONTROL, fault=None, plugin=self.plugin)
        for fault in fault_order():
            yield AuditItem.from_parent(self, name=fault.name, fault=fault, plugin=self.plugin)


class AuditItem(SuiteItem):
    """One fault: passed where the gate would be red, expected to fail where it would stay green."""

    def __init__(self, *, fault: Fault | None, plugin: AuditPlugin, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fault = fault
        self.plugin = plugin
        self.add_marker("genmodel")
        if fault is not None:
            self.extra_keyword_matches.add(fault.layer)

    def runtest(self) -> None:
        """Judge the healthy model, or the gate under the fault."""
        if self.fault is None:
            self._run_control()
            return
        result = self.plugin.audit.run(self.fault)
        self.stash[RECORD] = {"result": result.to_json()}
        if result.outcome in ("not_applicable", "not_run"):
            skip(str(result.reason))
        if result.outcome in ("missed", "warned"):
            pytest.xfail(f"{result.outcome}: {result.reason}")

    def _run_control(self) -> None:
        reasons: list[str] = []
        for kind in ("checkpoint", "adapter"):
            try:
                found = self.plugin.audit.control(kind)
            except (CannotAuditError, DoesNotApplyError) as error:
                reasons.append(str(error))
                continue
            self.stash[RECORD] = {"control": [vars(claim) for claim in found.values()]}
            return
        pytest.fail(f"cannot judge the gate: {reasons[0]}", pytrace=False)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The reason, without a traceback."""
        if isinstance(excinfo.value, pytest.fail.Exception):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class AuditPlugin:
    """Collects the faults, takes what is selected of the suite as the gate, and counts."""

    def __init__(self, config: pytest.Config, genmodel: GenmodelSession) -> None:
        if not genmodel.settings.suite:
            raise pytest.UsageError("--genmodel-audit and --genmodel-no-suite cannot both be asked for")
        self._config = config
        self._genmodel = genmodel
        self._results: list[Result] = []
        self._control: list[ClaimResult] = []
        self._environment: dict[str, Any] = {}
        self._passed_over = 0
        self.audit: Audit

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Add the faults to what the session collects."""
        report = yield
        if isinstance(collector, pytest.Session) and report.passed:
            group = AuditGroup.from_parent(
                collector, name=GROUP, nodeid=f"{ROOT}::{GROUP}", path=collector.path
            )
            group.plugin = self
            report.result = [*report.result, group]
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """Let -k, -m and ids choose among claims and faults alike: all of a kind of which none was chosen."""
        every = list(items)
        yield
        claims = [item for item in items if _claim_of(item) is not None]
        faults = [item for item in items if isinstance(item, AuditItem)]
        claims = claims or [item for item in every if isinstance(item, GenmodelItem)]
        if not any(item.fault for item in faults):
            faults = [item for item in every if isinstance(item, AuditItem)]
        self._passed_over = sum(_claim_of(item) is None and not isinstance(item, AuditItem) for item in items)
        gate = [claim for item in claims if (claim := _claim_of(item)) is not None]
        self.audit = Audit(self._genmodel, _distinct(gate), self._genmodel.settings.audit_time)
        items[:] = faults

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Send what came of a fault with its report."""
        report = yield
        if report.when == "call" and RECORD in item.stash:
            from pytest_genmodel.reports.environment import environment

            report.genmodel_audit = item.stash[RECORD] | {"environment": environment(self._genmodel)}
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in what came of a fault, from this process or from a worker."""
        record = getattr(report, "genmodel_audit", None)
        if record is None:
            return
        self._environment.update(record["environment"])
        if "result" in record:
            self._results.append(Result.from_json(record["result"]))
        else:
            self._control = [ClaimResult(**claim) for claim in record["control"]]

    @property
    def score(self) -> Score:
        """What is known of the gate so far."""
        return Score(self._results, self._control)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Give the report its section; fail where the gate catches too few."""
        if REPORT in self._config.stash and self._results:
            report = self._config.stash[REPORT]
            report.audit = self.score.to_json()
            report.environment.update(self._environment)
        least = self._genmodel.settings.audit_min
        is_worker = hasattr(self._config, "workerinput")
        if least is not None and not is_worker and not self._config.option.collectonly:
            share = self.score.share
            if (share is None or share < least) and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Say the score, what was missed, and what each claim is worth."""
        from pytest_genmodel.audit.summary import write_summary

        if self._results:
            write_summary(terminalreporter, self.score, self._genmodel.settings, self._passed_over)

    def pytest_unconfigure(self) -> None:
        """Remove what the audit has written."""
        if hasattr(self, "audit"):
            self.audit.close()


def _claim_of(item: pytest.Item) -> Claim | None:
    """The claim that an item judges: one of the suite's, or of a marker."""
    if isinstance(item, GenmodelItem):
        claim = item.claim
        is_there = claim.extra is None or importlib.util.find_spec(claim.extra[0]) is not None
        return claim if is_there else None
    marked = getattr(getattr(item, "callspec", None), "params", {}).get(CLAIM_FIXTURE)
    if marked is None:
        return None
    told = "-".join(f"{key}={value}" for key, value in marked.parameters.items())
    return Claim(marked.invariant, dict(marked.parameters), told or None)


def _distinct(gate: list[Claim]) -> list[Claim]:
    return list({claim.name: claim for claim in gate}.values())
