"""The marker `@pytest.mark.invariant(name, **parameters)`: each is an item of its own.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_genmodel.session import GenmodelSession

MARKER = "invariant"
MARKER_HELP = (
    "invariant(name, **parameters): judge the invariant `name` for the candidate before the test's body runs; "
    "several on one test make several items (pytest-genmodel)"
)
CLAIM_FIXTURE = "_genmodel_claim"
TARGET_FIXTURE = "_genmodel_target"


def generate(metafunc: pytest.Metafunc, genmodel: GenmodelSession) -> None:
    """Make an item for each candidate (where there are several) and for each invariant marker.

    Raises a collection error for a marker without a name, with an unknown name or with an unknown parameter.
    """
    if TARGET_FIXTURE in metafunc.fixturenames and len(genmodel.labels) > 1:
        metafunc.parametrize(
            TARGET_FIXTURE, range(len(genmodel.labels)), ids=genmodel.labels, indirect=True, scope="session"
        )
    claims = [_claim(mark, metafunc.definition.nodeid) for mark in _marks(metafunc)]
    if claims:
        metafunc.parametrize(CLAIM_FIXTURE, claims, ids=_ids(claims), indirect=True)


def prepare(collector: pytest.Collector, function: Any) -> None:
    """Let a marked test function use the fixture that judges its claim; it must be known before items are made."""
    own = (mark.name for mark in getattr(function, "pytestmark", ()))
    if MARKER in own or collector.get_closest_marker(MARKER) is not None:
        pytest.mark.usefixtures(CLAIM_FIXTURE)(function)


def _marks(metafunc: pytest.Metafunc) -> list[pytest.Mark]:
    return list(reversed(list(metafunc.definition.iter_markers(MARKER))))


def _claim(mark: pytest.Mark, where: str) -> tuple[str, dict[str, Any]]:
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.invariants.registry import find

    if len(mark.args) != 1 or not isinstance(mark.args[0], str):
        raise pytest.Collector.CollectError(
            f"{where}: @pytest.mark.invariant takes one name and keyword parameters, not {mark.args!r}"
        )
    try:
        find(mark.args[0]).check(mark.kwargs)
    except BadInputError as error:
        raise pytest.Collector.CollectError(f"{where}: {error}") from None
    return mark.args[0], dict(mark.kwargs)


def _ids(claims: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Name each claim; parameters are told where one invariant stands there twice."""
    names = [name for name, _ in claims]
    return [
        name
        if names.count(name) == 1
        else "-".join([name, *(f"{k}={_short(v)}" for k, v in parameters.items())])
        for name, parameters in claims
    ]


def _short(value: Any) -> str:
    return getattr(value, "__name__", str(value))
