"""Items of the built-in suite by their ids on the command line.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

from pytest_genmodel.stash import SESSION

SELECTED = "genmodel_selected"
"""Ids of the suite given on the command line; an option, so that xdist's workers get them."""


def take_selected(config: pytest.Config) -> None:
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


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep of the suite what was selected by id; raises pytest.UsageError for an id that it does not have."""
    session = config.stash[SESSION]
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
