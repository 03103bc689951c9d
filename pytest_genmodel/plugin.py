"""The pytest plugin: hooks only. Loading it imports nothing heavy; a run without candidates pays nothing.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_genmodel import github, hookspecs, markers, settings
from pytest_genmodel.baseline_run import BaselineRun, baseline, check_path, genmodel_baseline
from pytest_genmodel.fixtures import (
    REPORT,
    SESSION,
    candidate,
    genmodel,
    genmodel_candidate,
    genmodel_claim,
    genmodel_reference,
    genmodel_target,
    probe,
    reference,
)
from pytest_genmodel.session import GenmodelSession

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


__all__ = [
    "baseline",
    "candidate",
    "genmodel",
    "genmodel_baseline",
    "genmodel_candidate",
    "genmodel_claim",
    "genmodel_reference",
    "genmodel_target",
    "probe",
    "reference",
]

SELECTED = "genmodel_selected"
"""Ids of the suite given on the command line; an option, so that xdist's workers get them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and their ini twins."""
    settings.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that a project may have."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Show the page of a rule, where that is all that was asked for; codes of the project's conftest are known."""
    code = config.getoption(settings.EXPLAIN)
    if code is None:
        return None
    from pytest_genmodel.cli.explain import known_rule, page_lines
    from pytest_genmodel.errors import BadInputError

    try:
        rule = known_rule(code, "genmodel explain lists all of ours")
    except BadInputError as error:
        raise pytest.UsageError(f"--genmodel-explain={code}: {error}") from None
    for line in page_lines(rule, shutil.get_terminal_size((100, 24)).columns):
        print(line)
    return 0


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, check the specs, set up the run's session."""
    config.addinivalue_line("markers", markers.MARKER_HELP)
    config.addinivalue_line("markers", "genmodel: an item of pytest-genmodel's built-in suite")
    live = config.option.capture == "no"
    session = GenmodelSession(settings.read(config), echo=print if live else None)
    session.again = settings.again(config, session.settings)
    config.stash[SESSION] = session
    if session.settings.candidates or session.settings.reference:
        _check_report_path(session)
        if not hasattr(config, "workerinput"):
            _check_specs(session)
    if session.settings.baseline is not None:
        _start_baseline(config, session)
    if session.settings.candidates:
        _take_selected(config)
        _start_report(config, session)
        if session.settings.save_run is not None:
            from pytest_genmodel.saving import Observing

            config.pluginmanager.register(Observing(config, session), "genmodel-observing")
    if session.settings.audit:
        from pytest_genmodel.audit.plugin import AuditPlugin

        config.pluginmanager.register(AuditPlugin(config, session), "genmodel-audit")


def _start_baseline(config: pytest.Config, session: GenmodelSession) -> None:
    from pytest_genmodel.errors import BadInputError

    if not hasattr(config, "workerinput"):
        if session.settings.update_baseline:
            check_path(str(session.settings.baseline))
        try:
            session.check_baseline()
        except BadInputError as error:
            session.close()
            raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(BaselineRun(config, session), "genmodel-baseline")


def _check_specs(session: GenmodelSession) -> None:
    from pytest_genmodel.errors import BadInputError

    try:
        session.check_specs()
    except BadInputError as error:
        session.close()
        raise pytest.UsageError(str(error)) from None


def _check_report_path(session: GenmodelSession) -> None:
    """Find out before an hour of sampling that the report cannot be written."""
    for name in ("json", "report", "sarif", "code-quality", "summary"):
        path = getattr(session.settings, name.replace("-", "_"))
        if path is None:
            continue
        parent = next((folder for folder in Path(path).resolve().parents if folder.exists()), None)
        if Path(path).is_dir() or parent is None or not parent.is_dir() or not os.access(parent, os.W_OK):
            raise pytest.UsageError(f"--genmodel-{name}={path}: cannot be written there")
    if session.settings.save_run is not None:
        _check_run(session.settings.save_run)
    if session.settings.report is not None:
        from pytest_genmodel.reports.html.page import missing

        if problem := missing():
            raise pytest.UsageError(f"--genmodel-report={session.settings.report}: {problem}")


def _check_run(folder: str) -> None:
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.runs.saved import check_folder

    try:
        check_folder(Path(folder))
    except BadInputError as error:
        raise pytest.UsageError(f"--genmodel-save-run={folder}: {error}") from None


def _take_selected(config: pytest.Config) -> None:
    """Take ids of the suite out of the arguments, which pytest would look for as files.

    In a folder below the root pytest shows them as `../genmodel::...`; an id is taken as it was shown.
    """
    given = {argument: id_ for argument in config.args if (id_ := _suite_id(config, argument)) is not None}
    if given:
        setattr(config.option, SELECTED, list(given.values()))
        config.args[:] = [argument for argument in config.args if argument not in given] or [
            str(config.rootpath)
        ]
        config.option.genmodel_only_suite = len(config.args) == 1 and config.args[0] == str(config.rootpath)


def _suite_id(config: pytest.Config, argument: str) -> str | None:
    """The id of the suite, or of a part of it, that `argument` is; None for what may be a file."""
    from pytest_genmodel.collection import ROOT

    place, colons, rest = argument.partition("::")
    shown = os.path.relpath(config.rootpath / ROOT, config.invocation_params.dir)
    if place not in (ROOT, shown) or Path(place).exists():
        return None
    return f"{ROOT}{colons}{rest}"


def _start_report(config: pytest.Config, session: GenmodelSession) -> None:
    from pytest_genmodel.reports.report import Report

    reference = session.settings.reference
    config.stash[REPORT] = Report(
        candidates=[session.describe(index) for index in range(len(session.labels))],
        reference={"spec": reference} if reference else None,
        command={
            "line": shlex.join(("pytest", *map(str, config.invocation_params.args))),
            "options": shlex.join(settings.spelled(session.settings)),
        },
        allow=session.settings.allow,
    )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Add the built-in suite to what the session collects."""
    report = yield
    if isinstance(collector, pytest.Session) and report.passed:
        session = collector.config.stash[SESSION]
        if session.settings.candidates and session.settings.suite:
            from pytest_genmodel.collection import ROOT, GenmodelCollector

            suite = GenmodelCollector.from_parent(
                collector, name=ROOT, nodeid=ROOT, path=collector.path, genmodel=session
            )
            only_suite = getattr(collector.config.option, "genmodel_only_suite", False)
            report.result = [*([] if only_suite else report.result), suite]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Refuse marked items that nobody would judge, and codes that nobody knows; select of the suite by id."""
    try:
        markers.check_all_judged(items)
        _check_allowed(config.stash[SESSION])
        _select(config, items)
    except pytest.UsageError as error:
        if hasattr(config, "workerinput"):
            session.shouldfail = str(error)  # xdist's controller shows it; of the error it would see a crash
        raise


def _select(config: pytest.Config, items: list[pytest.Item]) -> None:
    session = config.stash[SESSION]
    if not session.settings.candidates:
        return
    from pytest_genmodel.collection import SuiteItem

    suite = [item for item in items if isinstance(item, SuiteItem)]
    session.suite_size = len(suite)
    selected = getattr(config.option, SELECTED, None)
    if not selected:
        return
    for one in selected:
        if not any(item.is_within(one) for item in suite):
            nearest = difflib.get_close_matches(one, [item.nodeid for item in suite], n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise pytest.UsageError(f"the built-in suite has no {one}{hint}")
    dropped = [item for item in suite if not any(item.is_within(one) for one in selected)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _check_allowed(session: GenmodelSession) -> None:
    """Refuse to allow what no rule knows; by now every invariant of the project is registered."""
    if not session.settings.allow:
        return
    from pytest_genmodel.diagnosis.allowance import check_known
    from pytest_genmodel.errors import BadInputError

    for allowance in session.settings.allow:
        source = "genmodel_allow" if allowance.by == "ini" else "--genmodel-allow"
        try:
            check_known([allowance])
        except BadInputError as error:
            raise pytest.UsageError(f"{source}={error}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make items of markers and candidates."""
    markers.generate(metafunc, metafunc.config.stash[SESSION])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let two pipelines be resident for a test that asks for both."""
    session = item.config.stash[SESSION]
    if session.settings.candidates:
        names = set(getattr(item, "fixturenames", ()))
        both = names & {"candidate", "genmodel_candidate"} and names & {"reference", "genmodel_reference"}
        session.residency.limit = 2 if both else 1


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Raise what a marker's invariant found before the body of the test runs."""
    from pytest_genmodel.outcomes import VERDICTS, raise_failures

    if VERDICTS in pyfuncitem.stash:
        raise_failures(pyfuncitem)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send an item's verdicts with its last report; pytest-xdist carries them to the controller."""
    item.config.stash[SESSION].clear_progress()
    report = yield
    if report.when == "teardown" and REPORT in item.config.stash:
        from pytest_genmodel.outcomes import VERDICTS

        if VERDICTS in item.stash:
            from pytest_genmodel.reports.environment import environment

            session = item.config.stash[SESSION]
            report.genmodel = {  # type: ignore[attr-defined]
                "verdicts": item.stash[VERDICTS],
                "environment": environment(session),
                "candidates": [session.describe(index) for index in range(len(session.labels))],
                "reference": session.describe_reference(),
                "samples": session.filming.new() if session.settings.report else [],
                "kept": str(session.kept) if session.kept else None,
                "suite_size": session.suite_size,
            }
    return report


def pytest_sessionstart(session: pytest.Session) -> None:
    """Collect verdicts where reports arrive: in this process, or in xdist's controller."""
    if REPORT in session.config.stash and not hasattr(session.config, "workerinput"):
        from pytest_genmodel.progress import progress_for

        session.config.stash[SESSION].progress = progress_for(session.config)
        session.config.pluginmanager.register(_Collecting(session.config), "genmodel-report")
        if session.config.stash[SESSION].settings.save_run is not None:
            from pytest_genmodel.saving import Saving

            saving = Saving(session.config, session.config.stash[SESSION])
            session.config.pluginmanager.register(saving, "genmodel-saving")
        if github.is_wanted(session.config.stash[SESSION].settings):
            view = github.GithubView(session.config.stash[REPORT])
            session.config.pluginmanager.register(view, "genmodel-github")


class _Collecting:
    """Takes in reports as they arrive, and writes the views when the run ends."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.report = config.stash[REPORT]
        self.problems: list[str] = []
        self.kept: dict[str, None] = {}

    def pytest_keyboard_interrupt(self) -> None:
        self.config.stash[SESSION].clear_progress()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = getattr(report, "genmodel", None)
        if record is not None:
            self.report.add(record)
            if record["kept"]:
                self.kept[record["kept"]] = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.report.checked_nothing and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.config.option.collectonly:
            return
        self.report.exit_status = int(session.exitstatus)
        given = self.config.stash[SESSION].settings
        for name, path, write in (
            ("json", given.json, self.report.write_json),
            ("report", given.report, self.report.write_html),
            ("sarif", given.sarif, partial(self.report.write_view, "sarif")),
            ("code-quality", given.code_quality, partial(self.report.write_view, "code-quality")),
            ("summary", given.summary, partial(self.report.write_view, "summary")),
        ):
            if path is None:
                continue
            try:
                write(Path(path))
            except OSError as error:
                self.problems.append(
                    f"--genmodel-{name}={path}: cannot be written ({error.strerror or error})"
                )
                session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        from pytest_genmodel.reports.terminal import write_summary
        from pytest_genmodel.reports.text import fold

        write_summary(terminalreporter, self.report)
        for entry in self.report.allowances:
            if entry["note"]:
                terminalreporter.write_line(fold(entry["note"], "  note: "))
        for folder in self.kept:
            terminalreporter.write_line(f"work files are kept in {folder} (--genmodel-keep)")
        for problem in self.problems:
            terminalreporter.write_line(problem, red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the run's work folder."""
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()
