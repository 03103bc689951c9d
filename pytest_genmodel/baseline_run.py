"""A run with a baseline: the fixture, what workers send, unused golden values, and the update that is shown first.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_genmodel.stash import GOLDENS, test_id

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from _pytest.terminal import TerminalReporter

    from pytest_genmodel.baselines.goldens import Goldens
    from pytest_genmodel.baselines.store import Entry, Store
    from pytest_genmodel.session import GenmodelSession

_MADE_WITH = ("level", "device", "dtype", "seed", "steps", "frames", "size", "image", "prompt")
_LEFT_OUT = "genmodel_left_out"
_NARROW = ("keyword", "lf", "stepwise", "ignore_glob", "genmodel_selected")
"""Options that make a run a part of the whole, of whatever files: -k, --lf, ids of the built-in suite."""
MOST_LINES = 20
"""Changes that are listed one by one; of the others there is the number."""


def goldens_of(item: pytest.Item, session: GenmodelSession) -> Goldens:
    """The golden values of `item`; the baseline is read when the first test asks."""
    from pytest_genmodel.baselines.goldens import Goldens
    from pytest_genmodel.settings import spelled

    store = session.baseline_store
    assert store is not None
    if GOLDENS not in item.stash:
        given = dict(
            option.removeprefix("--genmodel-").partition("=")[::2] for option in spelled(session.settings)
        )
        item.stash[GOLDENS] = Goldens(
            store,
            test_id(item),
            update_command(session, test_id(item)),
            update=session.settings.update_baseline,
            keep=session.settings.save_run is not None,
            made_with={key: given[key] for key in _MADE_WITH if key in given},
        )
    return item.stash[GOLDENS]


def update_command(session: GenmodelSession, *arguments: str) -> str:
    """The command that renews the run's baseline."""
    return shlex.join(
        (
            "pytest",
            *arguments,
            f"--genmodel-baseline={session.settings.baseline}",
            "--genmodel-update-baseline",
        )
    )


class BaselineRun:
    """Hooks of a run that names a baseline: in every process, and in the controller what is done at the end."""

    def __init__(self, config: pytest.Config, session: GenmodelSession) -> None:
        self.config, self.session = config, session
        self.is_controller = not hasattr(config, "workerinput")
        self.checked: set[str] = set()
        self.taken: dict[str, Entry] = {}
        self.judged: dict[str, bool] = {}
        self.left_out: set[str] = set()
        self.lost = False
        self.unused: list[str] = []
        self.problem: str | None = None
        self.renewed: Store | None = None
        self._outcomes: dict[str, set[str]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Send with an item's last report what it checked and took down."""
        report = yield
        if report.when == "teardown":
            from pytest_genmodel.baselines.store import sent

            goldens = item.stash.get(GOLDENS, None)
            report.genmodel_baseline = {  # type: ignore[attr-defined]
                "test": test_id(item),
                "checked": list(goldens.checked) if goldens else [],
                "taken": sent(goldens.taken) if goldens else {},
            }
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in what arrives; golden values of a test that failed are not."""
        if not self.is_controller:
            return
        seen = self._outcomes.setdefault(report.nodeid, set())
        if str(report.outcome) == "rerun":  # of pytest-rerunfailures: the next try counts
            seen.clear()
            return
        seen.add(report.outcome)
        record = getattr(report, "genmodel_baseline", None)
        if record is None:
            return
        report.genmodel_baseline = None  # type: ignore[attr-defined]
        passed = seen == {"passed"}
        self.judged[record["test"]] = passed
        self.checked.update(record["checked"])
        if passed:
            from pytest_genmodel.baselines.store import received

            self.taken.update(received(record["taken"]))
        del self._outcomes[report.nodeid]

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Remember what was left out: it is there, and its golden values are not unused."""
        self.left_out.update(test_id(item) for item in items)
        if not self.is_controller:
            self.config.workeroutput[_LEFT_OUT] = sorted(self.left_out)  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take in what a worker of pytest-xdist left out; of one that crashed nobody knows."""
        output = getattr(node, "workeroutput", None)
        if output is None:
            self.lost = True
        else:
            self.left_out.update(output.get(_LEFT_OUT, ()))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Find what is unused, and work out the update; nothing is written yet."""
        if not self.is_controller or self.config.option.collectonly:
            return
        ended = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        complete = (
            ended and session.exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED and not session.shouldfail
        )
        self.unused = self._unused() if complete else []
        if not self.session.settings.update_baseline:
            if self.unused and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
            return
        if not ended and session.exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED:
            self.problem = "the run did not come to its end: the baseline stays as it was"
            return
        self._renew(session)

    def _renew(self, session: pytest.Session) -> None:
        from pytest_genmodel.errors import GenmodelError

        try:
            self.renewed = self._update()
            if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
                session.exitstatus = pytest.ExitCode.OK  # what was asked for is done
        except GenmodelError as error:
            self.problem = f"the baseline stays as it was: {error}"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _update(self) -> Store:
        from pytest_genmodel.baselines.record import put_reference

        store = self.session.baseline_store
        assert store is not None
        renewed = store.copy()
        for name in self.unused:
            renewed.remove(name)
        for name, entry in self.taken.items():
            renewed.put(name, entry)
        if self.session.settings.reference is not None:
            put_reference(renewed, self.session.record_reference())
        return renewed

    def _unused(self) -> list[str]:
        from pytest_genmodel.baselines.goldens import unused

        store = self.session.baseline_store
        if store is None or not store.names("golden"):
            return []
        return unused(store, self.checked, self.judged, self._is_asked)

    def _is_asked(self, test: str) -> bool:
        """Whether this run was to run a test of that id, if it exists: all of it, or whole files and folders."""
        option, here = self.config.option, self.config.invocation_params.dir
        narrowed = any(getattr(option, name, None) for name in _NARROW)
        if narrowed or self.lost or test in self.left_out or any("::" in arg for arg in self.config.args):
            return False
        file = (self.config.rootpath / test.partition("::")[0]).resolve()

        def is_within(places: Iterable[str]) -> bool:
            wholes = [(here / place).resolve() for place in places]
            return any(file == whole or whole in file.parents for whole in wholes)

        return is_within(self.config.args) and not is_within(getattr(option, "ignore", None) or ())

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Say what is unused; show what an update changes, then write it."""
        if not (self.is_controller and (self.unused or self.problem or self.renewed)):
            return
        terminalreporter.write_sep("=", "genmodel baseline")
        if self.problem:
            terminalreporter.write_line(self.problem, red=True)
        if self.unused and self.renewed is None:
            count = len(self.unused)
            values = "1 golden value is" if count == 1 else f"{count} golden values are"
            terminalreporter.write_line(
                f"{values} asked for by no test any more, so this run fails:", red=True
            )
            for name in self.unused[:MOST_LINES]:
                terminalreporter.write_line(f"  {name.removeprefix('golden/')}")
            if count > MOST_LINES:
                terminalreporter.write_line(f"  and {count - MOST_LINES} more")
            arguments = [str(argument) for argument in self.config.invocation_params.args]
            command = shlex.join(("pytest", *arguments, "--genmodel-update-baseline"))
            terminalreporter.write_line(f"to remove them: {command}")
        if self.renewed is not None:
            self._show_and_write(terminalreporter, self.renewed)

    def _show_and_write(self, terminal: TerminalReporter, renewed: Store) -> None:
        from pytest_genmodel.baselines.changes import change_lines
        from pytest_genmodel.errors import GenmodelError
        from pytest_genmodel.reports.text import size_text

        store = self.session.baseline_store
        assert store is not None
        lines = change_lines(store, renewed)
        for line in lines[: 2 * MOST_LINES]:
            terminal.write_line(line)
        if len(lines) > 2 * MOST_LINES:
            terminal.write_line(f"  and {len(lines) - 2 * MOST_LINES} more changes")
        if not lines:
            terminal.write_line(f"{store.path}: nothing changes")
            return
        try:
            size = renewed.write()
        except GenmodelError as error:
            terminal.write_line(str(error), red=True)
            raise pytest.exit.Exception(str(error), returncode=int(pytest.ExitCode.TESTS_FAILED)) from None
        terminal.write_line(f"{store.path}: written, {size_text(size)}", green=True)
        if self.session.settings.reference is None and self.session.settings.candidates:
            terminal.write_line(
                "golden values only: what it holds of a reference is renewed with --genmodel-ref"
            )


def check_path(path: str) -> None:
    """Find out before an hour of sampling that a baseline cannot be written.

    Raises:
        pytest.UsageError: it cannot.
    """
    from pytest_genmodel.whole_file import can_be_written

    if not can_be_written(Path(path)):
        raise pytest.UsageError(f"--genmodel-baseline={path}: cannot be written there")
