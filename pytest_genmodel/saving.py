"""A run that is saved (`--genmodel-save-run`): what items send, and the folder that is written at the end.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_genmodel.baselines.store import received, sent
from pytest_genmodel.stash import REPORT

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from pytest_genmodel.baselines.store import Entry
    from pytest_genmodel.session import GenmodelSession

COMPARED: pytest.StashKey[dict[str, list[dict[str, Any]]]] = pytest.StashKey()
"""What the claims of one item compared (`runs.observed.record`), by the key of the verdict."""
_OUTPUT = "genmodel_saved"
_FIRST_WORKER = "gw0"


class Observing:
    """Hooks of every process of a run that is saved."""

    def __init__(self, config: pytest.Config, session: GenmodelSession) -> None:
        self.config, self.session = config, session

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send with an item's last report what its claims compared, and the golden values that it checked."""
        report = yield
        if report.when == "teardown":
            from pytest_genmodel.stash import GOLDENS

            goldens = item.stash.get(GOLDENS, None)
            report.genmodel_compared = item.stash.get(COMPARED, {})  # type: ignore[attr-defined]
            report.genmodel_seen = sent(goldens.seen) if goldens else {}  # type: ignore[attr-defined]
        return report

    def pytest_sessionfinish(self) -> None:
        """In a worker, send what a baseline could be made of."""
        output = getattr(self.config, "workeroutput", None)
        if output is not None and not self.config.option.collectonly:
            is_first = self.config.workerinput["workerid"] == _FIRST_WORKER  # type: ignore[attr-defined]
            entries, problem = self.session.record_candidate(with_weights=is_first)
            output[_OUTPUT] = {"entries": sent(entries), "problem": problem}


class Saving:
    """Collects what arrives, and writes the folder; registered after the report is."""

    def __init__(self, config: pytest.Config, session: GenmodelSession) -> None:
        self.config, self.session = config, session
        self.report = config.stash[REPORT]
        self.comparisons: dict[str, list[dict[str, Any]]] = {}
        self.entries: dict[str, Entry] = {}
        self.left_out: list[str] = []
        self.problems: list[str] = []
        self.has_workers = False
        self.said: str | None = None
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in what an item brought."""
        compared, seen = getattr(report, "genmodel_compared", None), getattr(report, "genmodel_seen", None)
        if compared is not None:
            self.comparisons.update(compared)
            report.genmodel_compared = None  # type: ignore[attr-defined]
        if seen:
            self.entries.update(received(seen))
            report.genmodel_seen = None  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take in what a worker of pytest-xdist has seen."""
        self.has_workers = True
        output = getattr(node, "workeroutput", {}).get(_OUTPUT)
        if output is not None:
            self.entries.update(received(output["entries"]))
            self._say(output["problem"])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the run."""
        if self.config.option.collectonly:
            return
        folder = str(self.session.settings.save_run)
        try:
            if not self.has_workers:
                entries, problem = self.session.record_candidate()
                self.entries.update(entries)
                self._say(problem)
            self._write(Path(folder))
            self.said = f"the run is kept in {folder} (genmodel judge {folder}; genmodel accept {folder})"
            return
        except OSError as error:
            why = f"cannot be written ({error.strerror or error})"
        except Exception as error:  # a fault of ours must not cost the summary of an hour's run
            why = f"could not be made ({type(error).__name__}: {error}); please report this"
        self.said = f"--genmodel-save-run={folder}: {why}"
        self.failed = True
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def _say(self, problem: str | None) -> None:
        if problem and problem not in self.problems:
            self.problems.append(problem)

    def _write(self, folder: Path) -> None:
        from pytest_genmodel.baselines.record import PIPELINE, SAMPLE
        from pytest_genmodel.baselines.store import Entry, Store
        from pytest_genmodel.runs.observed import bounded
        from pytest_genmodel.runs.saved import write

        settings = self.session.settings
        left_out = [*self.left_out, *self.problems]
        left_out += bounded([one for several in self.comparisons.values() for one in several])
        pipeline = self.entries.get(PIPELINE)
        if pipeline is not None and SAMPLE in self.entries:
            made = {**pipeline.value["conditions"], "level": settings.level}
            self.entries[PIPELINE] = Entry({**pipeline.value, "conditions": made}, pipeline.tensors)
        elif pipeline is None:  # of what is missing its half no baseline can be made
            self.entries = {name: e for name, e in self.entries.items() if not name.startswith("reference/")}
        store = Store(folder, self.entries)
        policy = {"strict": settings.strict, "level": settings.level, "baseline": settings.baseline}
        baseline = store.to_bytes() if len(store) else None
        write(folder, self.report.to_json(), self.comparisons, policy, left_out, baseline)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Say where the run is kept."""
        if self.said is not None:
            terminalreporter.write_line(self.said, red=self.failed)
