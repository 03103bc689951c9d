"""The HTML page in a real browser: it renders, plays in step, filters, fits a phone, and runs nobody else's script.

Debian's Chromium is used (`apt install chromium`); GENMODEL_TESTS_CHROMIUM names another one. Without a browser these
tests fail: GENMODEL_TESTS_CHROMIUM=none is how a machine says that it has none on purpose.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_genmodel.reports.html.page import page
from tests.reports.documents import HOSTILE, document, footage

NAMES = ("chromium", "chromium-browser", "google-chrome")
FAULTS = 4
COLOUR = """() => [...document.querySelectorAll('canvas')].map((canvas) => {
  const copy = new OffscreenCanvas(24, 16).getContext('2d', {willReadFrequently: true});
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(9, 9, 1, 1).data[0];
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    wanted = os.environ.get("GENMODEL_TESTS_CHROMIUM")
    if wanted == "none":
        pytest.skip("GENMODEL_TESTS_CHROMIUM=none: this machine has no browser")
    found = wanted or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            "no Chromium is installed, so nobody has seen the page: apt install chromium, or say "
            "GENMODEL_TESTS_CHROMIUM=none to do without"
        )
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=flags)
        yield running
        running.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(
        page(document("run-17", "run-18", name=HOSTILE), {"run-17": footage(HOSTILE)}), encoding="utf-8"
    )
    return path.as_uri()


@pytest.fixture
def opened(browser: Any, file: str) -> Iterator[Callable[..., Any]]:
    """Open the page; whatever the browser complains of, or asks the network for, fails the test."""
    contexts, complaints = [], []

    def open_page(width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        shown = context.new_page()
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on(
            "request",
            lambda request: request.url.startswith(("data:", "file:")) or complaints.append(request.url),
        )
        shown.goto(file)
        if options.get("java_script_enabled", True):
            shown.wait_for_selector(".player[data-ready]")
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def overflow(shown: Any) -> list[str]:
    """Elements that stick out to the right, but for those in a box that scrolls by itself."""
    found: list[str] = shown.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(element =>
            element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll, svg, .hidden'))
            .map(element => element.outerHTML.slice(0, 120))"""
    )
    return found + (
        ["the page"] if shown.evaluate("document.documentElement.scrollWidth > innerWidth") else []
    )


def test_page_renders_and_hostile_names_do_nothing(opened):
    shown = opened()

    assert shown.locator("h1").inner_text() == "2 candidates"
    assert shown.locator(".cause").count() == 4
    assert "<script>window.stolen=1</script>" in shown.locator(".cause").first.inner_text()
    assert shown.evaluate("window.stolen") is None
    assert shown.locator("svg").first.bounding_box()["width"] > 200


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_sticks_out(opened, width):
    shown = opened(width)
    assert overflow(shown) == []

    shown.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert overflow(shown) == []


def test_filters_leave_what_was_asked_for(opened):
    shown = opened()
    visible = shown.locator(".fault:visible")
    said = shown.locator(".filters output")
    assert visible.count() == 2 * FAULTS

    shown.get_by_label("error").uncheck()
    assert {each.get_attribute("data-severity") for each in visible.all()} == {"warning", "note"}
    assert said.inner_text() == f"4 of {2 * FAULTS} faults shown"
    shown.get_by_label("Component").select_option("vae")
    assert visible.count() == 2
    shown.get_by_label("Text").fill("no such word")
    assert visible.count() == 0
    assert shown.locator(".none:visible").count() == 2
    shown.get_by_label("Text").fill("gm301 SCALING")
    assert visible.count() == 2


def test_videos_play_in_step_and_stop(opened):
    shown = opened()
    player = shown.locator(".player")
    before = player.get_attribute("data-frame")
    shown.wait_for_selector(f".player:not([data-frame='{before}'])")

    shown.get_by_role("button", name="Pause").click()
    assert shown.get_by_role("button", name="Play", exact=True).get_attribute("aria-pressed") == "false"
    frame = int(player.get_attribute("data-frame"))
    reference, candidate, difference = shown.evaluate(COLOUR)
    assert reference == round(255 * frame * 0.75 / 8)
    assert candidate == round(255 * (frame * 0.75 / 8 + 0.125))
    assert difference == 255

    shown.get_by_label("One frame on").click()
    assert int(player.get_attribute("data-frame")) == (frame + 1) % 9
    shown.get_by_label("Frame", exact=True).fill("8")
    assert shown.locator(".controls output").inner_text() == "frame 8"
    assert shown.evaluate(COLOUR)[:2] == [191, 223]


def test_keyboard_reaches_and_works_the_player(opened):
    shown = opened(reduced_motion="reduce")
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.textContent") == "To the report"

    shown.get_by_label("Frame", exact=True).focus()
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("ArrowRight")
    assert shown.locator(".player").get_attribute("data-frame") == "2"
    shown.get_by_role("button", name="Play", exact=True).focus()
    shown.keyboard.press("Space")
    shown.wait_for_selector(".player[data-frame='4']")
    assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_who_wants_no_motion_sees_the_first_frame_stand(opened):
    shown = opened(reduced_motion="reduce")

    assert shown.locator(".player").get_attribute("data-frame") == "0"
    assert shown.locator(".play").inner_text() == "Play"
    assert shown.evaluate("document.querySelector('.play').getAttribute('aria-pressed')") == "false"


def test_without_scripts_everything_is_there(opened):
    shown = opened(java_script_enabled=False)

    assert shown.locator(".fault:visible").count() == 2 * FAULTS
    assert shown.locator(".scripted:visible").count() == 0
    assert shown.locator("img.sheet:visible").count() == 3


def test_paper_shows_every_fault_and_the_sheets(opened):
    shown = opened()
    shown.get_by_label("error").uncheck()
    shown.emulate_media(media="print")

    assert shown.locator(".fault:visible").count() == 2 * FAULTS
    assert shown.locator("img.sheet:visible").count() == 3
    assert shown.locator(".scripted:visible").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(opened, scheme):
    """WCAG AA: 4.5 to 1 for every piece of text."""
    shown = opened(color_scheme=scheme)

    poor = shown.evaluate(
        """() => {
          const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
          const light = (colour) => numbers(colour).slice(0, 3).map((part) => part / 255)
            .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
            .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
          const ground = (element) => {
            for (let each = element; each; each = each.parentElement) {
              const colour = getComputedStyle(each).backgroundColor;
              if ((numbers(colour)[3] ?? 1) > 0) return colour;
            }
          };
          return [...document.querySelectorAll('body *')]
            .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
            .filter((element) => element.checkVisibility() && element.tagName !== 'SCRIPT')
            .filter((element) => {
              const style = getComputedStyle(element);
              const [a, b] = [light(element.closest('svg') ? style.fill : style.color), light(ground(element))];
              return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
            }).map((element) => element.outerHTML.slice(0, 120));
        }"""
    )

    assert poor == []
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)"
    )
