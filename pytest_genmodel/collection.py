"""The suite as pytest items: `genmodel::checkpoint::coverage`, one set for each candidate.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_genmodel.suite import SUITE, Claim, suite_for

if TYPE_CHECKING:
    from _pytest._code.code import ExceptionInfo, TerminalRepr

    from pytest_genmodel.session import GenmodelSession

ROOT = "genmodel"


class GenmodelCollector(pytest.Collector):
    """The root of the built-in suite; it stands for no file."""

    def __init__(self, *, genmodel: GenmodelSession, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.genmodel = genmodel

    def collect(self) -> Iterator[pytest.Collector]:
        """One collector for each group of claims; raises a collection error where a named function is not there."""
        given = self.genmodel.settings
        _check_named("--genmodel-trainer", given.trainer)
        _check_named("--genmodel-sampler", given.sampler)
        for group in SUITE:
            yield GenmodelGroup.from_parent(self, name=group, genmodel=self.genmodel)


class GenmodelGroup(pytest.Collector):
    """A group of claims: checkpoint, round_trip, sampling, training, adapters."""

    def __init__(self, *, genmodel: GenmodelSession, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.genmodel = genmodel

    def collect(self) -> Iterator[pytest.Item]:
        """The group's claims, for one candidate after the other."""
        several = len(self.genmodel.labels) > 1
        settings = self.genmodel.settings
        claims = suite_for(
            settings.trainer or settings.train_command or _given(self.config, "trainer"),
            settings.ladder,
            settings.sampler or settings.sample_command or _given(self.config, "sampler"),
            settings.cache,
            baseline=settings.baseline is not None,
            trace=settings.trace,
        )[self.name]
        for index, label in enumerate(self.genmodel.labels):
            for claim in claims:
                name = f"{claim.name}[{label}]" if several else claim.name
                yield GenmodelItem.from_parent(
                    self, name=name, claim=claim, candidate=index, genmodel=self.genmodel
                )


def _given(config: pytest.Config, what: str) -> str | Callable[..., Any] | None:
    """The project's own trainer or sampler, by its hook.

    Raises a collection error where the hook gives something else.
    """
    given: str | Callable[..., Any] | None = getattr(config.hook, f"pytest_genmodel_{what}")(config=config)
    if given is None or callable(given):
        return given
    if not isinstance(given, str):
        raise pytest.Collector.CollectError(
            f"pytest_genmodel_{what}: a function, or a text that names one, was expected, not {given!r}"
        )
    _check_named(f"pytest_genmodel_{what}", given)
    return given


def _check_named(source: str, name: str | None) -> None:
    """Import what the user named, before an hour of judging: a collection error of one line where it is not there."""
    if name is None:
        return
    from pytest_genmodel.errors import BadInputError
    from pytest_genmodel.training.trainers import trainer_named
    from pytest_genmodel.transformations.own_sample import inference_named

    try:
        (trainer_named if source.endswith("trainer") else inference_named)(name)
    except BadInputError as error:
        raise pytest.Collector.CollectError(f"{source}: {error}") from None


class SuiteItem(pytest.Item):
    """An item that stands for no function in a file."""

    def is_within(self, nodeid: str) -> bool:
        """Whether `nodeid` names this item, a group that it is in, or it without its label."""
        return self.nodeid == nodeid or self.nodeid.startswith((f"{nodeid}::", f"{nodeid}["))

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Name the item as its id does."""
        return self.path / ROOT, 0, f"{ROOT}::{self.parent.name if self.parent else ''}::{self.name}"


class GenmodelItem(SuiteItem):
    """One claim about one candidate.

    It is judged while pytest sets the item up, so that what cannot be judged is an error in pytest's terms; what
    was found is raised as a failure when the item is called.
    """

    def __init__(self, *, claim: Claim, candidate: int, genmodel: GenmodelSession, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.claim = claim
        self.candidate = candidate
        self.genmodel = genmodel
        self.add_marker("genmodel")
        self.extra_keyword_matches.add(claim.invariant)

    def setup(self) -> None:
        """Judge the claim."""
        from pytest_genmodel.outcomes import judge_item, skip_item

        place = self.genmodel, self.candidate, self.claim.invariant, dict(self.claim.parameters)
        if self.claim.extra and importlib.util.find_spec(self.claim.extra[0]) is None:
            package, extra = self.claim.extra
            skip_item(self, *place, f"{package} is not installed (pip install 'pytest-genmodel[{extra}]')")
        judge_item(self, *place)

    def runtest(self) -> None:
        """Raise what was found."""
        from pytest_genmodel.outcomes import raise_failures

        raise_failures(self)

    def repr_failure(self, excinfo: ExceptionInfo[BaseException], style: Any = None) -> str | TerminalRepr:
        """The verdict's own words, without a traceback."""
        if isinstance(excinfo.value, pytest.fail.Exception):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)
