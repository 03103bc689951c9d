"""Every rule explains itself: whole sentences, an example, a name of its own."""

from __future__ import annotations

import re

import pytest

from pytest_genmodel.diagnosis.rules import RULES, Rule, Severity, nearest, spelled
from pytest_genmodel.diagnosis.rules.page import markdown, sections, thread_name

OURS = [rule for code, rule in RULES.items() if code.startswith("GM")]
ids = [rule.code for rule in OURS]


@pytest.mark.parametrize("rule", OURS, ids=ids)
def test_rule_says_what_it_means_shows_it_and_says_what_to_do(rule):
    assert re.fullmatch(r"GM\d{3}", rule.code)
    for text in (rule.meaning, rule.action):
        assert re.match(r"[A-Z`]|lora_B ", text), text
        assert text.endswith("."), text
        assert "  " not in text
    lines = rule.example.split("\n")
    assert rule.example.strip(), "no example"
    assert len(lines) <= 6
    assert max(map(len, lines)) <= 80
    assert all(re.match(r"https://\S+$", address) for address in rule.seen_in)
    assert len(set(rule.seen_in)) == len(rule.seen_in)


def test_no_two_rules_have_one_name():
    assert len({rule.summary for rule in OURS}) == len(OURS)


def test_incident_of_the_founding_thread_is_met_in_it():
    assert "https://github.com/zai-org/CogVideo/issues/374" in RULES["GM203"].seen_in


def test_page_has_every_part_in_order():
    text = markdown(
        RULES["GM203"], sections(RULES["GM203"], ["coverage"], [("lora_still_attached", "So it was")])
    )

    assert text.startswith("# GM203: adapter-wrapped checkpoint in a bare model\n\nSeverity: **error**\n")
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == [
        "What it means, and why it matters",
        "Where it was met",
        "Example",
        "How to fix it",
        "Which invariants say it",
        "Faults that show it",
        "How to allow it on purpose",
    ]
    assert RULES["GM203"].meaning in text
    assert f"```text\n{RULES['GM203'].example}\n```" in text
    assert "[zai-org/CogVideo issue 374](https://github.com/zai-org/CogVideo/issues/374)" in text
    assert "- `lora_still_attached`: So it was" in text
    assert '--genmodel-allow="GM203: why' in text


def test_page_leaves_out_what_a_rule_does_not_have():
    rule = Rule("ACME001", "logo survives", "The logo stays.", "Look at it.")
    titles = [part.title for part in sections(rule)]
    assert titles == ["What it means, and why it matters", "How to fix it", "How to allow it on purpose"]


def test_page_of_what_cannot_or_need_not_be_allowed():
    cannot, note = sections(RULES["GM010"])[-1], sections(RULES["GM306"])[-1]
    assert "cannot be allowed" in cannot.paragraphs[0]
    assert not cannot.example
    assert RULES["GM306"].severity is Severity.NOTE
    assert not note.example


def test_markdown_shows_angle_brackets_and_stars():
    rule = Rule("ACME001", "x", "Each word becomes <unk>, in a * b and `<code> * 2`.", "Look.")
    text = markdown(rule, sections(rule))
    assert "becomes &lt;unk>, in a \\* b and `<code> * 2`." in text


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://github.com/zai-org/CogVideo/issues/374", "zai-org/CogVideo issue 374"),
        ("https://github.com/huggingface/peft/pull/3582", "huggingface/peft pull request 3582"),
        ("https://github.com/a/b/commit/0123456789abcdef", "a/b commit 0123456789"),
        ("https://arxiv.org/abs/2305.08891", "https://arxiv.org/abs/2305.08891"),
    ],
)
def test_threads_have_short_names(address, name):
    assert thread_name(address) == name


def test_codes_are_found_in_any_case_and_nearest_ones_are_of_the_band():
    assert spelled("gm203") == "GM203"
    assert spelled("GM299") == "GM299"
    assert nearest("gm2o3")[0].startswith("GM2")
    assert nearest("banana") == []
