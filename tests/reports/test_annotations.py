"""GitHub's workflow commands: one line each, ten of a kind, escaped as GitHub unescapes them."""

from __future__ import annotations

import re

from pytest_genmodel.reports.annotations import MOST, workflow_commands
from tests.reports.documents import HOSTILE, document, finding, verdict

COMMAND = re.compile(r"::(error|warning|notice) ([^:]*)::(.*)")


def parsed(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Read commands as GitHub's runner does: a line each, then undo the escaping."""

    def unescaped(value: str) -> str:
        for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            value = value.replace(code, char)
        return value

    found = []
    for line in text.splitlines():
        match = COMMAND.fullmatch(line)
        assert match, line
        properties = dict(one.split("=", 1) for one in match[2].split(","))
        found.append(
            (match[1], {key: unescaped(value) for key, value in properties.items()}, unescaped(match[3]))
        )
    return found


def test_each_severity_has_its_kind_and_the_worst_comes_first():
    commands = parsed(workflow_commands(document()))

    assert [(kind, properties["title"]) for kind, properties, _ in commands] == [
        ("error", "GM920 what GM920 is"),
        ("error", "GM203 what GM203 is"),
        ("error", "seeded_sampling could not be judged"),
        ("warning", "GM301 what GM301 is"),
        ("notice", "GM213 what GM213 is"),
    ]
    assert commands[1][2] == (
        "transformer: transformer_blocks.0.attn1.to_q.weight: transformer_blocks.0.attn1.to_q.weight is random\n"
        "cause: saved with its LoRA attached\n"
        "action: Save the bare model.\n"
        "replay: pytest --genmodel-ckpt=out/run-17 genmodel::checkpoint::coverage"
    )


def test_the_cause_leads_where_the_report_names_one():
    value = document()
    value["causes"] = [
        {
            "candidate": "run-17",
            "code": "GM203",
            "component": "transformer",
            "location": "transformer_blocks.0.attn1.to_q.weight",
        }
    ]

    commands = parsed(workflow_commands(value))

    assert commands[0][1]["title"] == "GM203 what GM203 is"


def test_names_from_a_file_cannot_end_a_line_or_a_property():
    name = "a\r\n::error::b%0Ac, d: e\u2028" + HOSTILE
    value = document(name=name)
    value["verdicts"][1]["findings"][0]["title"] = "title, with: marks\n::stop-commands::x"

    text = workflow_commands(value)

    assert len(parsed(text)) == 5
    assert "title=title%2C" not in text  # the code comes before it
    assert "GM203 title%2C with%3A marks%0A%3A\\%3Astop-commands%3A%3Ax" in text
    assert not re.search(r"^\s*::(?!error |warning |notice )", text, re.M)


def test_more_than_ten_of_a_kind_are_counted_in_the_tenth():
    many = [finding("GM301", location=f"layer.{number}") for number in range(10_000)]
    value = document()
    value["verdicts"] = [verdict("same_weights", "failed", findings=many)]

    commands = parsed(workflow_commands(value))

    assert len(commands) == MOST
    assert commands[0][2].startswith("transformer: layer.0: ")
    assert commands[-1][1]["title"] == "and 9991 more"


def test_a_run_that_judged_nothing_says_so():
    value = document()
    value["verdicts"] = [verdict("same_config", "skipped", reason="no reference was given")]

    assert parsed(workflow_commands(value)) == [
        ("error", {"title": "nothing was judged"}, "every invariant was skipped, so this run fails")
    ]


def test_a_healthy_run_says_nothing():
    value = document()
    value["verdicts"] = [verdict("same_config")]

    assert workflow_commands(value) == ""


def test_the_number_and_what_would_have_passed_are_told():
    limit = {"number": 0.5, "limit": 0.0, "unit": "max |a-b|", "least": False, "tolerance": "bitwise"}
    limit |= {"smallest_tolerance": "close(rtol=0, atol=0.5)", "parameter": "tolerance"}
    value = document()
    value["verdicts"] = [verdict("rerun", "failed", findings=[finding("GM501", evidence={"limit": limit})])]

    [(_, _, message)] = parsed(workflow_commands(value))

    assert (
        "\nnumber: 0.5 max |a-b|; limit 0 (bitwise)\npasses: tolerance=close(atol=0.5)\nreplay: " in message
    )


def test_what_is_allowed_is_a_notice_with_its_reason():
    value = document()
    allowed = {
        "allowance": "GM401",
        "reason": "the new schedule is meant",
        "by": "option",
        "severity": "error",
    }
    value["verdicts"] = [verdict("same_config", findings=[finding("GM401", "note", allowed=allowed)])]

    [(kind, _, message)] = parsed(workflow_commands(value))

    assert kind == "notice"
    assert "allowed: the new schedule is meant" in message
    assert "action:" not in message


def test_candidates_are_told_apart():
    titles = [properties["title"] for _, properties, _ in parsed(workflow_commands(document("a", "b")))]

    assert {"GM203 what GM203 is (a)", "GM203 what GM203 is (b)"} <= set(titles)


def test_what_one_reason_keeps_from_being_judged_is_told_once():
    value = document()
    value["verdicts"] = [
        verdict(f"claim{number}", "inconclusive", reason="no memory") for number in range(30)
    ]

    [(kind, properties, message)] = parsed(workflow_commands(value))

    assert (kind, properties["title"]) == ("error", "30 claims could not be judged")
    assert message.startswith("no memory\nnot judged: claim0, claim1, ")
