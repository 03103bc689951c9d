"""The pytest plugin: hooks only. Loading it imports nothing heavy; a run without candidates pays nothing.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator
from typing import Any

import pytest

from pytest_genmodel import hookspecs, markers, settings
from pytest_genmodel.fixtures import (
    baseline,
    candidate,
    genmodel,
    genmodel_baseline,
    genmodel_candidate,
    genmodel_claim,
    genmodel_reference,
    genmodel_target,
    probe,
    reference,
)
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.stash import REPORT, SESSION

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
        from pytest_genmodel.collecting import check_report_paths
        from pytest_genmodel.early_checks import check_specs

        check_report_paths(session)
        if not hasattr(config, "workerinput"):
            _checked(session, check_specs)
    if session.settings.baseline is not None:
        _start_baseline(config, session)
    if session.settings.candidates:
        from pytest_genmodel.collecting import start_report
        from pytest_genmodel.selection import take_selected

        take_selected(config)
        start_report(config, session)
        if session.settings.save_run is not None:
            from pytest_genmodel.saving import Observing

            config.pluginmanager.register(Observing(config, session), "genmodel-observing")
    if session.settings.audit:
        from pytest_genmodel.audit.plugin import AuditPlugin

        config.pluginmanager.register(AuditPlugin(config, session), "genmodel-audit")


def _start_baseline(config: pytest.Config, session: GenmodelSession) -> None:
    from pytest_genmodel.baseline_run import BaselineRun, check_path
    from pytest_genmodel.early_checks import check_baseline

    if not hasattr(config, "workerinput"):
        if session.settings.update_baseline:
            check_path(str(session.settings.baseline))
        _checked(session, check_baseline)
    config.pluginmanager.register(BaselineRun(config, session), "genmodel-baseline")


def _checked(session: GenmodelSession, check: Callable[[GenmodelSession], None]) -> None:
    from pytest_genmodel.errors import BadInputError

    try:
        check(session)
    except BadInputError as error:
        session.close()
        raise pytest.UsageError(str(error)) from None


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
        if config.stash[SESSION].settings.candidates:
            from pytest_genmodel.selection import select

            select(config, items)
    except pytest.UsageError as error:
        if hasattr(config, "workerinput"):
            session.shouldfail = str(error)  # xdist's controller shows it; of the error it would see a crash
        raise


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


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Say what was asked of a run that has no candidate."""
    session = config.stash.get(SESSION, None)
    if session is not None and (said := settings.without_candidate(config, session.settings, exitstatus)):
        terminalreporter.write_line(said, yellow=True)


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
        from pytest_genmodel import github
        from pytest_genmodel.collecting import Collecting
        from pytest_genmodel.progress import progress_for

        session.config.stash[SESSION].progress = progress_for(session.config)
        session.config.pluginmanager.register(Collecting(session.config), "genmodel-report")
        if session.config.stash[SESSION].settings.save_run is not None:
            from pytest_genmodel.saving import Saving

            saving = Saving(session.config, session.config.stash[SESSION])
            session.config.pluginmanager.register(saving, "genmodel-saving")
        if github.is_wanted(session.config.stash[SESSION].settings):
            view = github.GithubView(session.config.stash[REPORT])
            session.config.pluginmanager.register(view, "genmodel-github")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the run's work folder."""
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()
