"""The fixtures: `candidate`, `reference`, `probe`, `genmodel`; nothing is loaded before it is touched.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

from pytest_genmodel.markers import CLAIM_FIXTURE, TARGET_FIXTURE, MarkedClaim
from pytest_genmodel.stash import SESSION

if TYPE_CHECKING:
    from pytest_genmodel.baselines.goldens import Goldens
    from pytest_genmodel.invariants.context import Context
    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe
    from pytest_genmodel.session import GenmodelSession

Opened = TypeVar("Opened")


@pytest.fixture(scope="session", name=TARGET_FIXTURE)
def genmodel_target(request: pytest.FixtureRequest) -> int:
    """Which candidate a test is about: parametrized where there are several."""
    session = request.config.stash[SESSION]
    if not session.labels:
        not_given("no candidate was given (--genmodel-ckpt=SPEC)", session)
    return int(getattr(request, "param", 0))


@pytest.fixture(scope="session")
def genmodel(request: pytest.FixtureRequest, _genmodel_target: int) -> Context:
    """The session's context: candidate, reference, probe, policy; what an invariant is given."""
    return request.config.stash[SESSION].context(_genmodel_target)


@pytest.fixture(scope="session")
def genmodel_candidate(genmodel: Context) -> Pipeline:
    """The pipeline being judged."""
    return _opened(lambda: genmodel.candidate)


@pytest.fixture(scope="session")
def genmodel_reference(request: pytest.FixtureRequest) -> Pipeline:
    """The pipeline that is trusted; the test is skipped where none was given."""
    session = request.config.stash[SESSION]
    if session.settings.reference is None:
        not_given("no reference was given (--genmodel-ref=SPEC)", session)
    spec = session.settings.reference
    return _opened(lambda: session.pipeline(spec))


@pytest.fixture(scope="session")
def candidate(genmodel_candidate: Pipeline) -> Pipeline:
    """The pipeline being judged; a fixture of this name in a project takes its place."""
    return genmodel_candidate


@pytest.fixture(scope="session")
def reference(genmodel_reference: Pipeline) -> Pipeline:
    """The pipeline that is trusted; a fixture of this name in a project takes its place."""
    return genmodel_reference


@pytest.fixture(scope="session")
def probe(genmodel: Context) -> Probe:
    """The fixed inputs of the run."""
    return _opened(lambda: genmodel.probe)


@pytest.fixture(name=CLAIM_FIXTURE, autouse=True)
def genmodel_claim(request: pytest.FixtureRequest) -> None:
    """Judge the claim of the test's marker while the test is set up; nothing for a test without one.

    It comes by itself because a fixture that is added while items are made is pruned away again.
    """
    claim: MarkedClaim | None = getattr(request, "param", None)
    if claim is None:
        return
    from pytest_genmodel.outcomes import judge_item

    candidate = claim.candidate
    if candidate is None:
        candidate = request.getfixturevalue(TARGET_FIXTURE)
    session = request.config.stash[SESSION]
    judge_item(request.node, session, candidate, claim.invariant, claim.parameters)


@pytest.fixture
def genmodel_baseline(request: pytest.FixtureRequest) -> Goldens:
    """The golden values of the test, kept in the run's baseline: `baseline.check("name", tensor)`."""
    session = request.config.stash[SESSION]
    if session.settings.baseline is None:
        not_given("no baseline was given (--genmodel-baseline=FILE)", session)
    from pytest_genmodel.baseline_run import goldens_of

    return _opened(lambda: goldens_of(request.node, session))


@pytest.fixture
def baseline(genmodel_baseline: Goldens) -> Goldens:
    """The golden values of the test; a fixture of this name in a project takes its place."""
    return genmodel_baseline


def not_given(reason: str, session: GenmodelSession) -> NoReturn:
    """A test that asks for what was not given is skipped, and is an error under a strict policy."""
    from pytest_genmodel.outcomes import skip

    if session.settings.strict:
        pytest.fail(reason, pytrace=False)
    skip(reason)


def _opened(open_: Callable[[], Opened]) -> Opened:
    """Open a checkpoint for a fixture; bad input is an error of one line, not our traceback."""
    from pytest_genmodel.errors import GenmodelError

    try:
        return open_()
    except GenmodelError as error:
        pytest.fail(str(error), pytrace=False)
