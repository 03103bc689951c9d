"""Legitimate differences are the same model: no claim says more than a note."""

from __future__ import annotations

import pytest

from pytest_genmodel.faults.copy import Copy, clone
from pytest_genmodel.faults.legitimate import all_differences
from pytest_genmodel.invariants.verdict import Outcome

DIFFERENCES = all_differences()


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("expect", ["identical", None])
def test_same_model_is_not_flagged(judged, healthy, tmp_path, name, expect):
    folder = clone(healthy, tmp_path / "copy")
    DIFFERENCES[name].make(Copy(folder))

    verdicts = [
        judged(claim, folder, healthy, level=level, expect=expect)
        for claim, level in (
            ("coverage", "static"),
            ("coverage", "quick"),
            ("sound_weights", "static"),
            ("same_weights", "static"),
            ("same_config", "static"),
        )
    ]

    assert [v.outcome for v in verdicts] == [Outcome.PASSED] * len(verdicts)
    assert [f for v in verdicts for f in v.findings if f.severity and f.severity.value != "note"] == []
