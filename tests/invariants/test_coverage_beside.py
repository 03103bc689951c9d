"""coverage of a damaged candidate, judged after another one whose components are still in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_genmodel.faults.registry import all_faults
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings


@pytest.mark.parametrize("name", ["file_cut_short", "configuration_is_no_json", "shard_missing"])
def test_damage_is_said_of_its_own_component_alone(healthy: Path, copy: Path, name: str):
    all_faults()[name].inject(copy, healthy)
    session = GenmodelSession(Settings(candidates=(str(healthy), str(copy))))

    try:
        sound, damaged = (session.judge(index, "coverage", {}) for index in (0, 1))
    finally:
        session.close()

    assert sound.findings == ()
    assert [(found.code[:3], found.component) for found in damaged.findings] == [("GM1", "transformer")]
    assert damaged.reason is None, "the other components were compared"
