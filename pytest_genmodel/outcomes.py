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

    before = genmodel.samples.computed
    verdict = genmodel.judge(candidate, name, parameters)
    _record(item, genmodel, candidate, verdict, genmodel.samples.computed - before)
    if verdict.outcome in (Outcome.FAILED, Outcome.INCONCLUSIVE):
        for title, text in verdict.attachments.items():
            item.add_report_section("setup", title, text)
    if verdict.outcome is Outcome.SKIPPED:
        skip(verdict.reason or "does not apply")
    if verdict.outcome is Outcome.INCONCLUSIVE:
        pytest.fail(f"{name} could not be judged: {verdict.reason}", pytrace=False)


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
    raise pytest.skip.Exception(reason, _use_item_location=True)


def raise_failures(item: pytest.Item) -> None:
    """Fail with the findings of every failed verdict of `item`."""
    from pytest_genmodel.reports.text import verdict_text

    failed = [verdict for verdict in item.stash.get(VERDICTS, []) if verdict["outcome"] == "failed"]
    if failed:
        pytest.fail("\n\n".join(verdict_text(verdict) for verdict in failed), pytrace=False)


def _record(
    item: pytest.Item, genmodel: GenmodelSession, candidate: int, verdict: Verdict, samples: int
) -> None:
    from pytest_genmodel.reports.report import plain

    record = plain(
        {
            **verdict.to_json(),
            "id": item.nodeid,
            "candidate": genmodel.labels[candidate],
            "samples_computed": samples,
        }
    )
    item.stash.setdefault(VERDICTS, []).append(record)
    item.user_properties.append(("genmodel.outcome", record["outcome"]))
    if codes := sorted({finding["code"] for finding in record["findings"]}):
        item.user_properties.append(("genmodel.codes", ",".join(codes)))
