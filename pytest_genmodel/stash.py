"""What hangs on pytest's own objects, and by which keys.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_genmodel.baselines.goldens import Goldens
    from pytest_genmodel.reports.report import Report
    from pytest_genmodel.session import GenmodelSession

SESSION: pytest.StashKey[GenmodelSession] = pytest.StashKey()
"""The run's session, on pytest's config."""
REPORT: pytest.StashKey[Report] = pytest.StashKey()
"""The run's report, there where a candidate was given."""
GOLDENS: pytest.StashKey[Goldens] = pytest.StashKey()
"""The golden values of one item."""


def test_id(item: pytest.Item) -> str:
    """The item's id as it is without pytest-xdist, which adds the group of a test to it."""
    mark = item.get_closest_marker("xdist_group")
    if mark is None:
        return item.nodeid
    group = mark.args[0] if mark.args else mark.kwargs.get("name", "default")
    return item.nodeid.removesuffix(f"@{group}")
