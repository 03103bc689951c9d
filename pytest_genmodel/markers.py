"""The marker `@pytest.mark.invariant(name, **parameters)`: each is an item of its own.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_genmodel.diagnosis.allowance import Allowances
    from pytest_genmodel.session import GenmodelSession

MARKER = "invariant"
MARKER_HELP = (
    "invariant(name, **parameters): judge the invariant `name` for the candidate before the test's body runs; "
    "several on one test make several items; allow={'GM412': 'why'} are findings that are there on purpose "
    "(pytest-genmodel)"
)
CLAIM_FIXTURE = "_genmodel_claim"
TARGET_FIXTURE = "_genmodel_target"


@dataclass(frozen=True)
class MarkedClaim:
    """What a marker declares; `candidate` is None where a fixture of the test says which candidate it is about."""

    invariant: str
    parameters: dict[str, Any]
    candidate: int | None = None


def generate(metafunc: pytest.Metafunc, genmodel: GenmodelSession) -> None:
    """Make an item for each candidate (where there are several) and for each invariant marker.

    Raises a collection error for a marker without a name, with an unknown name or parameter, or with an allowance
    without a reason.
    """
    several = len(genmodel.labels) > 1
    has_target = TARGET_FIXTURE in metafunc.fixturenames
    if has_target and several:
        metafunc.parametrize(
            TARGET_FIXTURE, range(len(genmodel.labels)), ids=genmodel.labels, indirect=True, scope="session"
        )
    claims = [_claim(mark, metafunc.definition.nodeid) for mark in _marks(metafunc)]
    if not claims:
        return
    ids = _ids(claims)
    if several and not has_target:
        ids = [f"{label}-{name}" for label in genmodel.labels for name in ids]
        claims = [
            MarkedClaim(claim.invariant, claim.parameters, index)
            for index in range(len(genmodel.labels))
            for claim in claims
        ]
    metafunc.parametrize(CLAIM_FIXTURE, claims, ids=ids, indirect=True)


def check_all_judged(items: Iterable[pytest.Item]) -> None:
    """Refuse to run where a marker would be passed over: nothing passes by not running.

    Raises:
        pytest.UsageError: a marked item has no claim: a unittest method, a marker on `pytest.param`, a marker
            that was added after items were made.
    """
    for item in items:
        mark = item.get_closest_marker(MARKER)
        if mark is not None and CLAIM_FIXTURE not in getattr(getattr(item, "callspec", None), "params", {}):
            raise pytest.UsageError(
                f"{item.nodeid}: its marker invariant{mark.args!r} would not be judged; put the marker on a test "
                "function, a class of plain tests or a module (not on unittest methods, pytest.param or add_marker)"
            )


def _marks(metafunc: pytest.Metafunc) -> list[pytest.Mark]:
    return list(reversed(list(metafunc.definition.iter_markers(MARKER))))


def _claim(mark: pytest.Mark, where: str) -> MarkedClaim:
    from pytest_genmodel.diagnosis.allowance import ALLOW
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.invariants.registry import find
    from pytest_genmodel.tensors.tolerance import Tolerance

    if len(mark.args) != 1 or not isinstance(mark.args[0], str):
        raise pytest.Collector.CollectError(
            f"{where}: @pytest.mark.invariant takes one name and keyword parameters, as "
            f'@pytest.mark.invariant("coverage"), not {_spelled(mark)}'
        )
    parameters = dict(mark.kwargs)
    try:
        given = parameters.pop(ALLOW, None)
        found = find(mark.args[0])
        found.check(parameters)
        if found.is_ours and isinstance(tolerance := parameters.get("tolerance"), str):
            Tolerance.parse(tolerance)
        if given is not None:
            parameters[ALLOW] = _allowances(given)
    except BadInputError as error:
        raise pytest.Collector.CollectError(f"{where}: {error}") from None
    return MarkedClaim(mark.args[0], parameters)


def _spelled(mark: pytest.Mark) -> str:
    given = [*map(repr, mark.args), *(f"{name}={value!r}" for name, value in mark.kwargs.items())]
    return f"({', '.join(given)})"


def _allowances(given: object) -> Allowances:
    from pytest_genmodel.diagnosis.allowance import ALLOW, check_known, parse_all
    from pytest_genmodel.errors import BadInputError

    try:
        allowances = parse_all(given)
        check_known(allowances)
    except BadInputError as error:
        raise BadInputError(f"{ALLOW}={error}") from None
    return allowances


def _ids(claims: list[MarkedClaim]) -> list[str]:
    """Name each claim; parameters are told where one invariant stands there twice."""
    from pytest_genmodel.diagnosis.allowance import ALLOW

    names = [claim.invariant for claim in claims]
    return [
        claim.invariant
        if names.count(claim.invariant) == 1
        else "-".join(
            [claim.invariant, *(f"{k}={_short(v)}" for k, v in claim.parameters.items() if k != ALLOW)]
        )
        for claim in claims
    ]


def _short(value: Any) -> str:
    return getattr(value, "__name__", str(value))
