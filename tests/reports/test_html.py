"""The HTML page, by its text: what stands in it, in which order, and what can never stand in it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.reports.html import page as page_module
from pytest_genmodel.reports.html import plots
from pytest_genmodel.reports.html.figures import figures
from pytest_genmodel.reports.html.page import page
from pytest_genmodel.reports.html.pictures import pictures
from tests.reports.documents import HOSTILE, document, finding, footage, sample, verdict

VOID = {"meta", "img", "br", "input", "link", "hr", "wbr"}
APART = {"br", "dt", "dd", "pre", "li"}


class Tree(HTMLParser):
    """Elements as (name, attributes, text inside), and whether each was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(text)
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        element = (tag, {name: value or "" for name, value in attrs}, [])
        self.elements.append(element)
        if tag in APART:
            self.handle_data(" ")
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag
        if tag in APART:
            self.handle_data(" ")

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def all(self, tag, **attributes):
        return [
            (found, "".join(text))
            for name, found, text in self.elements
            if name == tag
            and all(value in found.get(key.rstrip("_"), "").split() for key, value in attributes.items())
        ]

    def text(self, tag, **attributes):
        return [" ".join(text.split()) for _, text in self.all(tag, **attributes)]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(page(document(), {"run-17": footage()}))


def test_verdict_and_root_cause_come_first(tree):
    assert tree.text("h1") == ["run-17 fails"]
    assert tree.text("title") == ["run-17 fails - genmodel report"]
    cause, other = tree.text("section", class_="cause")
    assert cause.startswith(
        "Root cause 1 of 2, certain GM203 what GM203 is Where transformer: transformer_blocks.0"
    )
    assert other.startswith("Root cause 2 of 2, possible GM301")
    assert "What" in cause
    assert "Cause saved with its LoRA attached" in cause
    assert "Action Save the bare model." in cause
    assert "Found by coverage, same_weights" in cause
    assert "pytest --genmodel-ckpt=out/run-17 genmodel::checkpoint::coverage" in cause


def test_cause_says_why_what_it_explains_and_what_was_ruled_out(tree):
    cause, _ = tree.text("section", class_="cause")
    assert "Why configuration identical, so the difference is in the names and shapes" in cause
    assert "Explains GM920 what GM920 is the sample is made with it" in cause
    [settled] = tree.text("dl", class_="settled")
    assert "Ruled out names and shapes, but for transformer configuration" in settled
    assert "Not looked at schedule" in settled
    explained = [found["href"] for found, _ in tree.all("a") if found["href"].startswith("#fault-")]
    assert explained == ["#fault-1-2", "#fault-1-2"]


def test_finding_of_a_cause_is_folded_among_the_findings(tree):
    faults = tree.text("article", class_="fault")
    assert ["Shown above as a root cause" in text for text in faults] == [True, False, True, False]


def test_warning_of_a_run_that_passes_is_no_root_cause():
    value = document()
    value["verdicts"] = [verdict("sound_weights", findings=[finding("GM803", "warning")])]

    [cause] = Tree(page(value, {})).text("section", class_="cause")

    assert cause.startswith("Nothing fails; a warning GM803")
    assert "Why" not in cause


def test_faults_are_grouped_and_the_worst_come_first(tree):
    faults = [
        (found["data-severity"], found["data-component"]) for found, _ in tree.all("article", class_="fault")
    ]
    assert faults == [("error", "transformer"), ("error", ""), ("warning", "vae"), ("note", "transformer")]


def test_every_code_leads_to_the_text_of_its_rule(tree):
    ids = {found["id"] for _, found, _ in tree.elements if "id" in found}
    links = [found["href"] for found, _ in tree.all("a") if found["href"].startswith("#")]
    assert {"#rule-GM203", "#rule-GM301"} <= set(links)
    assert [link for link in links if link[1:] not in ids] == []
    [rule] = [text for found, text in tree.all("article", class_="rule") if found["id"] == "rule-GM203"]
    assert "What to do:" in rule


def test_ids_are_used_once_and_labels_are_there(tree):
    ids = [found["id"] for _, found, _ in tree.elements if "id" in found]
    assert len(ids) == len(set(ids))
    for _, found, _ in tree.elements:
        assert found.get("aria-labelledby", "title-run") in ids
    assert all(found.get("alt") for found, _ in tree.all("img"))
    buttons = [found.get("aria-label") or text for found, text in tree.all("button")]
    assert all(buttons)


def test_what_was_not_judged_stands_with_its_reason(tree):
    words = " ".join(tree.text("section"))
    assert "Could not be judged" in words
    assert "peft is not installed adapter_identity" in words


def test_environment_digests_configuration_and_command_are_there(tree):
    [run] = [text for found, text in tree.all("section") if found.get("id") == "run"]
    words = " ".join(run.split())
    for expected in ("pytest --genmodel-ckpt=out/run-17", "a" * 64, "packages.torch 2.13", "the/base"):
        assert expected in words
    assert any(
        "scaling_factor" in text for text in tree.text("section", **{"aria-labelledby": "configuration-1"})
    )


def test_allowances_stand_with_what_became_of_them():
    given = document()
    idle = "GM803 is allowed and was not found: remove it (its rank)"
    given["allowances"] = [
        {"allowance": "GM213", "reason": HOSTILE, "by": "ini", "found": True, "note": None},
        {"allowance": "GM803", "reason": "its rank", "by": "option", "found": False, "note": idle},
    ]
    tree = Tree(page(given, {}))

    assert len(tree.all("ul", class_="allowances")) == 1
    one, other = tree.text("li")[-2:]
    assert one.startswith("GM213 <script>")
    assert "of the ini file; found, and a note" in one
    assert "of the command line; not found" in other
    assert idle in other
    assert [said for _, said in tree.all("p", role="note") if "GM803" in said] == [idle]
    assert "Allowances" not in page(document(), {})


def test_measurements_and_seconds_stand_beside_each_verdict(tree):
    rows = tree.text("tr", class_="failed")
    assert len(rows) == 3
    assert "transformer.compared 3" in rows[1]
    assert rows[0].endswith("1.25")


def test_every_curve_is_a_plot_and_a_table(tree):
    titles = [" ".join(text.split()) for _, text in tree.all("strong") if "What to do" not in text]
    assert titles == [
        "Likeness of each frame",
        "Distance of the latents after each step",
        "Weight drift by layer: transformer",
        "Drift by learning rate (full)",
    ]
    assert len(tree.all("svg")) == 4
    assert len(tree.all("table", class_="numbers")) == 4


def test_nothing_is_fetched_from_anywhere(tree):
    for name, found, _ in tree.elements:
        for attribute in ("src", "srcset", "data", "poster", "xlink:href"):
            assert re.match(r"data:image/webp;base64,|#|$", found.get(attribute, "")), (name, attribute)
        if name in ("link", "script", "iframe", "object", "embed"):
            assert name == "script"
            assert "src" not in found
    style = "".join(tree.text("style"))
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_names_stay_text():
    text = page(document(name=HOSTILE), {"run-17": footage(HOSTILE)})
    tree = Tree(text)

    assert [name for name, found, _ in tree.elements if any(key.startswith("on") for key in found)] == []
    assert len(tree.all("script")) == 1
    assert all(found["src"].startswith("data:image/webp;base64,") for found, _ in tree.all("img"))
    assert "\u202e" not in text
    assert "<script>window.stolen" in tree.all("section", class_="cause")[0][1]
    assert "49" not in tree.all("section", class_="cause")[0][1].replace("GM", "")
    assert any("$\\frac{1}{0}$" in label or "frac" in label for label in tree.text("svg"))


def test_hostile_codes_labels_and_links_stay_text():
    given = document('x" onclick="steal()')
    given["verdicts"].append(
        verdict("mine", "failed", 'x" onclick="steal()', findings=[finding('A"><script>', evidence={})])
    )
    tree = Tree(page(given, {}))

    assert not any("onclick" in found for _, found, _ in tree.elements)
    assert 'A"><script>' in "".join(text for _, text in tree.all("article", class_="rule"))


def test_policy_of_the_page_allows_its_own_script_alone(tree):
    import hashlib

    [(policy, _)] = [one for one in tree.all("meta") if one[0].get("http-equiv") == "Content-Security-Policy"]
    [(_, script)] = tree.all("script")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy["content"]
    assert f"script-src 'sha256-{digest}'" in policy["content"]


def test_several_candidates_stand_in_one_page(monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)  # drawing takes most of the time
    tree = Tree(page(document("one", "two"), {"two": footage()}))

    assert tree.text("h1") == ["2 candidates"]
    assert [text.split(" fails")[0] for text in tree.text("h2", class_="failed")] == ["one", "two"]
    assert len(tree.all("section", class_="cause")) == 4
    assert len(tree.all("form")) == 1
    assert "The report holds no sample of one." in tree.text("p")


def test_green_and_empty_runs_have_a_page():
    green = document()
    green["verdicts"] = [verdict("coverage")]
    assert "run-17 passes" in Tree(page(green, {})).text("h1")
    assert "No findings." in Tree(page(green, {})).text("p")

    empty = {**document(), "verdicts": [], "environment": {}, "complete": False, "exit_status": 2}
    tree = Tree(page(empty, {}))
    assert tree.text("h1") == ["run-17 nothing was judged"]
    assert any("did not come to its end" in text for text in tree.text("p"))


def test_inconclusive_run_is_not_green():
    given = document()
    given["verdicts"] = [verdict("coverage"), verdict("seeded_sampling", "inconclusive", reason="no memory")]

    assert Tree(page(given, {})).text("h1") == ["run-17 could not be judged"]


def test_without_matplotlib_the_numbers_stand_open_and_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)

    tree = Tree(page(document(), {"run-17": footage()}))

    assert tree.all("svg") == []
    assert len([found for found, _ in tree.all("details") if "open" in found]) == 4
    assert any("pip install 'pytest-genmodel[report]'" in text for text in tree.text("p"))


def test_equal_pages_are_made_of_equal_runs():
    assert page(document(), {"run-17": footage()}) == page(document(), {"run-17": footage()})


def test_pictures_give_way_and_it_is_said(monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    whole = page(document(), {"run-17": footage()})
    bare = page(document(), {"run-17": {**footage(), "pictures": None}})
    together = len(footage()["pictures"]["together"])

    monkeypatch.setattr(page_module, "MOST_BYTES", len(whole.encode()) - together // 2)
    assert Tree(page(document(), {"run-17": footage()})).all("details", class_="together") == []
    monkeypatch.setattr(page_module, "MOST_BYTES", len(bare.encode()) + 200)
    tree = Tree(page(document(), {"run-17": footage()}))
    assert tree.all("img") == []
    assert any("larger than 10 MB" in text for text in tree.text("p"))


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_sheets_hold_every_frame_to_the_last_bit_and_the_difference():
    made = pictures(sample(seed=1).frames, sample().frames, 1_000_000)

    assert made is not None
    assert (made["columns"], made["width"], made["height"], made["shown"]) == (8, 24, 16, list(range(9)))
    sheet = opened(made["sheets"]["candidate"])
    assert sheet.size == (8 * 24, 2 * 16)
    greys = [sheet.getpixel((n % 8 * 24 + 5, n // 8 * 16 + 5))[0] for n in range(9)]
    assert greys == [round(255 * (n * 0.75 / 8 + 0.125)) for n in range(9)]
    assert made["gain"] == 8.0
    assert opened(made["sheets"]["difference"]).getpixel((3, 3)) == (255, 255, 255)
    animated = opened(made["together"])
    assert (animated.n_frames, animated.size) == (9, (3 * 24 + 4, 16))


def test_large_videos_are_shown_smaller_and_with_fewer_frames():
    noise = torch.rand(61, 3, 120, 208, generator=torch.Generator().manual_seed(0))

    made = pictures(noise, None, 120_000)

    assert made is not None
    assert list(made["sheets"]) == ["candidate"]
    assert made["shown"][-1] == 60
    assert len(made["shown"]) < 61
    assert max(made["width"], made["height"]) <= 160
    assert sum(map(len, (*made["sheets"].values(), made["together"]))) * 3 // 4 <= 120_000
    assert pictures(noise, None, 1000) is None


def test_frames_that_are_no_numbers_are_black():
    made = pictures(torch.full((1, 3, 8, 8), float("nan")), torch.zeros(1, 3, 8, 8), 100_000)

    assert made is not None
    assert opened(made["sheets"]["candidate"]).getpixel((0, 0)) == (0, 0, 0)
    assert opened(made["sheets"]["difference"]).getpixel((0, 0)) == (255, 255, 255)


def test_curves_are_drawn_of_whatever_was_measured():
    odd = (0.0, -3.0, 5e-324, 1e-30, 1.0, 1e300, float("inf"))
    for value in odd:
        for log in (False, True):
            plots.lines("x", [0], [value], "frame", "dB", log=log)
    assert plots.lines("x", range(len(odd)), odd, "frame", "dB", log=True)
    assert plots.bars("x", [f"layer.{n}" for n in range(len(odd))], odd, "drift")
    assert plots.ladder("x", (0.0, 1e-46, 1e-9), (0.0, 5e-324, 1.0), (float("inf"), 0.0, 1e300))
    assert plots.lines("x", [], [], "frame", "dB") is None
    assert plots.bars("x", ["a"], [float("inf")], "drift") is None
    assert plots.ladder("x", (0.0,), (0.0,), (0.0,)) is None


@pytest.mark.parametrize(
    ("psnr", "said"),
    [
        (["nan", "nan"], "2 of 2 frames hold values that are no numbers."),
        ([30.0, "nan", "inf"], "1 of 3 frames hold values that are no numbers."),
        (["inf", "inf"], "Every frame is equal to the reference's."),
        (["inf", 30.25], "Lowest: frame 1, 30.2 dB."),
    ],
)
def test_likeness_of_frames_is_said_in_words(psnr, said):
    [figure] = figures(0, [], {"psnr": psnr})

    assert figure.caption.endswith(said)
    assert [value for _, value in figure.rows] == [f"{float(value):.4g}" for value in psnr]


def test_best_footage_of_all_workers_is_kept():
    from pytest_genmodel.reports.report import Report

    report = Report(candidates=[{"label": "run-17"}], reference=None)
    alone, short, long = (
        {"candidate": "run-17", "psnr": psnr, "frames": frames, "pictures": {"sheets": {}}}
        for psnr, frames in ((None, 49), ([30.0], 1), ([30.0] * 9, 9))
    )
    for one in (alone, short, long, alone, short):
        report.add(
            {"verdicts": [], "environment": {}, "candidates": [{}], "reference": None, "samples": [one]}
        )

    assert report.samples == {"run-17": long}
    assert report.to_json()["samples"] == [{**long, "pictures": None}]


def test_a_number_stands_beside_its_limit_and_what_would_have_passed():
    given = document("run-17")
    limit = against(0.3, 0.1, "relative difference")
    given["verdicts"][0]["findings"] = [finding("GM920", component=None, location="frame 5", evidence=limit)]

    text = page(given, {})

    assert "0.3 relative difference; limit 0.1" in text.replace("<wbr>", "")
    assert "a limit of 0.3 relative difference" in text.replace("<wbr>", "")
