"""The job summary: the cause first, and nothing in it that a file's author could turn into markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from pytest_genmodel.reports.markdown import MOST_BYTES, append_summary, code, markdown, text
from tests.reports.documents import HOSTILE, document, finding, verdict

MARKUP = (
    "a | cell | **bold** _it_ ~~gone~~ [link](http://evil.example) ![x](http://evil.example/x.png) "
    "<https://evil.example> www.evil.example @someone #12 :tada: \\| $x$ &lt;b&gt; a_b_c"
)


class Page(HTMLParser):
    """Which elements Markdown became, and the text that a reader sees."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
        self.feed(renderer.render(source))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert tag in ("code", "td", "th", "h2") or not attrs, (tag, attrs)

    def handle_data(self, data):
        self.text += data


def test_verdict_and_first_fault_stand_at_the_top():
    lines = [line for line in markdown(document()).splitlines() if line]

    assert lines[0] == "## `run-17` fails"
    assert lines[1] == "2 passed, 3 failed, 1 skipped, 1 inconclusive, in 9 s."
    assert lines[2] == "### GM920 what GM920 is"
    assert "$ pytest --genmodel-ckpt=out/run-17 genmodel::sampling::sound_video" in lines


def test_causes_lead_and_say_what_they_explain():
    value = document()
    value["causes"] = [
        {
            "candidate": "run-17",
            "code": "GM203",
            "component": "transformer",
            "confidence": "certain",
            "location": "transformer_blocks.0.attn1.to_q.weight",
            "conclusion": "configuration identical, so the fault is in the weights of the transformer",
            "explains": [
                {
                    "code": "GM920",
                    "title": "noise in the video",
                    "component": None,
                    "location": "frame 5",
                    "why": "random weights make noise",
                }
            ],
            "ruled_out": [{"subject": "configuration", "text": "configuration identical"}],
        }
    ]

    page = Page(markdown(value)).text

    assert page.index("GM203") < page.index("GM920")
    assert "Confidence: certain" in page
    assert "GM920 noise in the video in frame 5: random weights make noise" in page
    assert "Ruled out: configuration identical" in page


@pytest.mark.parametrize(
    "hostile",
    [
        MARKUP,
        HOSTILE,
        f"{HOSTILE} {MARKUP}",
        f"`{MARKUP}` {MARKUP} ```",
        "- item",
        "1. item",
        "> quote",
        "# head",
        "===",
        "---",
        "a\n\n## b",
        "",
    ],
)
def test_a_text_is_shown_as_it_is(hostile):
    page = Page(f"before\n{text(hostile, 5000)}\n\n| a |\n|---|\n| {text(hostile, 5000)} |\n")

    assert page.tags <= {"p", "table", "thead", "tbody", "tr", "th", "td", "code"}
    seen = " ".join(page.text.split())
    shown = " ".join(hostile.replace("\u202e", "\\u202e").split())
    assert seen.replace("`", "").count(shown.replace("`", "")) == 2 or not shown


@pytest.mark.parametrize("hostile", [MARKUP, HOSTILE, "|", "`", "a`b", "<b>", " x ", "\n", "", "run-17[a|b]"])
def test_a_name_is_shown_as_it_is(hostile):
    page = Page(f"{code(hostile, 5000)}\n\n| a |\n|---|\n| {code(hostile, 5000)} |\n")

    assert page.tags <= {"p", "table", "thead", "tbody", "tr", "th", "td", "code"}
    shown = hostile.replace("\u202e", "\\u202e").replace("\n", "\\n")
    assert page.text.count(shown) >= 2


def test_a_whole_summary_of_hostile_names_has_our_elements_alone():
    value = document("run|17`<b>", "x", name=HOSTILE + MARKUP)
    value["command"]["line"] = "pytest ```\n```\n<script>"
    value["reference"]["spec"] = MARKUP

    page = Page(markdown(value))

    assert page.tags == {
        *("h2", "h3", "h4", "p", "br", "strong", "code", "pre", "details", "summary"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert "http://evil.example" not in markdown(value)
    assert "@someone" not in markdown(value)


def test_ten_thousand_findings_fit():
    value = document()
    found = [
        finding("GM301", location=f"layer.{number}.{MARKUP}", message=MARKUP) for number in range(10_000)
    ]
    value["verdicts"] = [verdict("same_weights", "failed", findings=found)]

    written = markdown(value)

    assert len(written.encode()) < MOST_BYTES
    assert "and 9900 more" in written


def test_what_does_not_fit_is_left_out_from_the_end_and_said():
    written = markdown(document(), most_bytes=1500)

    assert len(written.encode()) < 1500
    assert written.startswith("## `run-17` fails")
    assert "More does not fit here" in written


def test_a_step_that_has_written_already_is_added_to(tmp_path):
    path = tmp_path / "summary.md"
    path.write_text("# mine\n")
    append_summary(document(), path)
    assert path.read_text().startswith("# mine\n\n## `run-17` fails")

    path.write_text("x" * (MOST_BYTES - 100))
    append_summary(document(), path)
    assert path.stat().st_size == MOST_BYTES - 100, "GitHub refuses a longer one whole"


def test_a_broken_run_says_so():
    value = document()
    value["complete"] = False

    assert "The run was broken off" in markdown(value)


def test_an_audit_says_what_the_gate_would_miss():
    value = document()
    fault = {
        "fault": "frames_reversed",
        "layer": "video",
        "summary": "frames come in reverse",
        "outcome": "missed",
    }
    value["verdicts"] = []
    value["audit"] = {
        "judged": 3,
        "summary": {"caught": 1, "stopped": 1, "warned": 0, "missed": 1},
        "faults": [fault, {**fault, "fault": "other", "outcome": "caught"}],
    }

    written = markdown(value)

    assert written.startswith("## The gate would catch 2 of 3 faults\n")
    assert "| `frames_reversed` | missed | `video` | frames come in reverse |" in written
    assert "other" not in written
    assert "nothing was judged" not in written
