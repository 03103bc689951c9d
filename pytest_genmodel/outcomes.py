"""From verdicts to what pytest understands: pass, fail, skip, error.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from pytest_genmodel.invariants.verdict import Verdict
    from pytest_genmodel.session import GenmodelSession

VERDICTS = pytest.StashKey[list[dict[str, Any]]]()
"""The verdicts of one item, as the report's schema spells them."""


def judge_item(
    item: pytest.Item, genmodel: GenmodelSession, candidate: int, name: str, parameters: dict[str, Any]
) -> None:
    """Judge one invariant for `item`; call it while the item is set up.

    Skips where it does not apply, and makes an error of what could not be judged; findings are raised by
    `raise_failures` when the item is called.
    """
    from pytest_genmodel.invariants.verdict import Outcome
    from pytest_genmodel.reports.text import unjudged_text

    before = genmodel.samples.computed
    verdict = genmodel.judge(candidate, name, parameters)
    record = _record(item, genmodel, candidate, verdict, genmodel.samples.computed - before)
    if verdict.outcome in (Outcome.FAILED, Outcome.INCONCLUSIVE):
        for title, text in verdict.attachments.items():
            item.add_report_section("setup", title, text)
    if verdict.outcome is Outcome.SKIPPED:
        skip(verdict.reason or "does not apply")
    if verdict.outcome is Outcome.INCONCLUSIVE:
        pytest.fail(unjudged_text(record), pytrace=False)


def skip_item(
    item: pytest.Item,
    genmodel: GenmodelSession,
    candidate: int,
    name: str,
    parameters: dict[str, Any],
    reason: str,
) -> NoReturn:
    """Skip `item` without judging it, and keep that as its verdict."""
    from pytest_genmodel.invariants.verdict import Outcome, Verdict

    verdict = Verdict(name, Outcome.SKIPPED, 0.0, reason=reason, parameters=parameters)
    _record(item, genmodel, candidate, verdict, 0)
    skip(reason)


def skip(reason: str) -> NoReturn:
    """Skip, at the place of the item and not of the line here."""
    from pytest_genmodel.reports.text import printable

    raise pytest.skip.Exception(printable(reason), _use_item_location=True)


def raise_failures(item: pytest.Item) -> None:
    """Fail with the findings of every failed verdict of `item`."""
    from pytest_genmodel.reports.terminal import columns
    from pytest_genmodel.reports.text import verdict_text

    width = columns(item.config.pluginmanager.get_plugin("terminalreporter"))
    failed = [verdict for verdict in item.stash.get(VERDICTS, []) if verdict["outcome"] == "failed"]
    if failed:
        pytest.fail("\n\n".join(verdict_text(verdict, width) for verdict in failed), pytrace=False)


def _record(
    item: pytest.Item, genmodel: GenmodelSession, candidate: int, verdict: Verdict, samples: int
) -> dict[str, Any]:
    from pytest_genmodel.reports.junit import properties
    from pytest_genmodel.reports.replay import replay
    from pytest_genmodel.reports.report import plain
    from pytest_genmodel.stash import test_id

    config = item.config
    record = plain(
        {
            **verdict.to_json(),
            "id": item.nodeid,
            "candidate": genmodel.labels[candidate],
            "samples_computed": samples,
            "replay": replay(test_id(item), genmodel.again, config.rootpath, config.invocation_params.dir),
        }
    )
    item.stash.setdefault(VERDICTS, []).append(record)
    item.user_properties.extend(properties(record))
    if verdict.compared:
        from pytest_genmodel.runs.observed import record as observed
        from pytest_genmodel.runs.saved import key
        from pytest_genmodel.saving import COMPARED

        item.stash.setdefault(COMPARED, {})[key(record)] = [observed(one) for one in verdict.compared]
    return dict(record)
