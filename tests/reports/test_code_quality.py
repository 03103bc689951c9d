"""GitLab's Code Quality: every field it demands, and the same fingerprints in every run."""

from __future__ import annotations

import json

from pytest_genmodel.reports.code_quality import MOST_TEXT, code_quality
from tests.reports.documents import HOSTILE, document, finding, verdict


def issues(value, root):
    return json.loads(code_quality(value, root))


def test_every_issue_has_what_gitlab_demands(tmp_path):
    found = issues(document("a", "b", name=f"x\n{HOSTILE}"), tmp_path)

    assert len(found) == 10
    for issue in found:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert issue["location"]["lines"]["begin"] >= 1
        path = issue["location"]["path"]
        assert path
        assert not path.startswith(("/", "./"))
        assert "\n" not in issue["description"]
        assert len(issue["description"]) <= MOST_TEXT + 4
    assert len({issue["fingerprint"] for issue in found}) == len(found)


def test_severities_and_words(tmp_path):
    found = issues(document(), tmp_path)

    assert [(issue["check_name"], issue["severity"]) for issue in found] == [
        ("GM920", "critical"),
        ("GM203", "critical"),
        ("GM301", "minor"),
        ("GM213", "info"),
        ("seeded_sampling", "major"),
    ]
    assert found[0]["description"] == "GM920 what GM920 is: frame 5: 32 tensors are random"
    assert found[4]["description"].startswith("seeded_sampling could not be judged: no memory for ")


def test_the_line_is_that_of_the_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "out/run-17/scheduler/scheduler_config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{\n  "a": 1,\n  "prediction_type": "epsilon"\n}\n')
    wrong = finding("GM401", component="scheduler", location="scheduler_config.json:prediction_type")
    value = document()
    value["verdicts"] = [verdict("same_config", "failed", findings=[wrong])]

    [issue] = issues(value, tmp_path)

    assert issue["location"] == {"path": "out/run-17/scheduler/scheduler_config.json", "lines": {"begin": 3}}


def test_a_healthy_run_is_an_empty_list(tmp_path):
    value = document()
    value["verdicts"] = [verdict("same_config")]

    assert issues(value, tmp_path) == []
