"""docs/faults.md is what the registry says."""

from __future__ import annotations

from tools.faults_page import PAGE, page


def test_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tools.faults_page"
