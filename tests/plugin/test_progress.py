"""Progress: a bar that erases itself on a terminal, a line now and then in CI, nothing under -q."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest

from pytest_genmodel.progress import progress_for
from pytest_genmodel.reports.progress_bar import ProgressBar, ProgressLines

GB = 10**9


class Screen:
    """A terminal's current line as it would look, and a clock that is set by hand."""

    def __init__(self):
        self.written, self.cells, self.cursor, self.now, self.room = [], [], 0, 0.0, 100

    def write(self, text):
        self.written.append(text)
        for char in text:
            if char == "\b":
                self.cursor -= 1
                continue
            self.cells[self.cursor : self.cursor + 1] = [char]
            self.cursor += 1

    @property
    def line(self):
        return "".join(self.cells).rstrip()

    def bar(self):
        return ProgressBar(self.write, lambda: self.room, lambda: self.now)

    def lines(self):
        return ProgressLines(self.written.append, lambda: self.now)


@pytest.fixture
def screen():
    return Screen()


def test_a_bar_says_what_how_far_and_how_fast(screen):
    show = screen.bar()

    for screen.now, done in ((0.0, 0), (1.0, 2 * GB), (2.0, 4 * GB)):
        show("comparing transformer", done, 10 * GB, "B")

    assert screen.line == " comparing transformer [########............]  40%, 4.0 of 10.0 GB, 2.0 GB/s"
    assert screen.cursor == 0


@pytest.mark.parametrize(
    ("room", "line"),
    [
        (50, " comparing transformer  40%, 4.0 of 10.0 GB"),
        (30, " comparing transformer  40%"),
        (10, "  40%"),
        (2, ""),
    ],
)
def test_a_bar_keeps_to_the_columns_that_are_left(screen, room, line):
    show = screen.bar()
    screen.room = room

    show("comparing transformer", 4 * GB, 10 * GB, "B")
    screen.now = 0.3
    show("comparing transformer", 4 * GB, 10 * GB, "B")

    assert screen.line == line


def test_a_bar_leaves_nothing_behind(screen):
    show = screen.bar()
    screen.write("coverage ")

    for screen.now, done in ((0.0, 0), (1.0, 900), (2.0, 1000)):
        show("reading", done, 1000, "B")

    assert (screen.line, screen.cursor) == ("coverage", 9)
    assert any("90%" in text for text in screen.written), "it was there before"


def test_a_shorter_picture_covers_a_longer_one(screen):
    show = screen.bar()

    show("sampling", 10, 12)
    screen.room = 8
    show("sampling", 11, 12)

    assert screen.line == " 11/12"


def test_a_job_that_was_broken_off_is_cleared(screen):
    show = screen.bar()
    show("sampling", 1, 4)

    show.clear()
    show.clear()

    assert (screen.line, screen.cursor) == ("", 0)


def test_a_quick_job_does_not_flicker_and_a_slow_one_is_not_drawn_at_every_block(screen):
    show = screen.bar()

    for number in range(1000):
        screen.now = number / 1000
        show("reading", number, 1000, "B")
    pictures = len(screen.written)
    screen.now += 1
    show("reading", 1, 5, "B")
    show("reading", 5, 5, "B")

    assert 5 <= pictures <= 8, "seven tenths of a second, ten pictures a second"
    assert len(screen.written) == pictures + 1, "the eraser"


def test_a_late_report_of_another_thread_does_not_go_backwards(screen):
    show = screen.bar()
    for done in (2, 5, 3):
        screen.now += 1
        show("reading", done * 1000, 10_000, "B")

    assert " 50%" in screen.line


def test_a_name_cannot_command_the_terminal(screen):
    screen.bar()("\x1b[2J", 1, 4)

    assert screen.line == r" \x1b[2J 1/4"


def test_a_line_is_written_for_a_job_that_lasts(screen):
    show = screen.lines()

    for second in range(25):
        screen.now = second + 0.5
        show("comparing transformer", second * GB, 100 * GB, "B")
    show("comparing transformer", 100 * GB, 100 * GB, "B")

    assert screen.written == [
        "genmodel: comparing transformer: 10%, 10.0 of 100 GB, 1.0 GB/s",
        "genmodel: comparing transformer: 20%, 20.0 of 100 GB, 1.0 GB/s",
    ]


def test_no_line_is_written_for_a_quick_job(screen):
    show = screen.lines()

    for screen.now, done in ((0.0, 1), (9.0, 2), (9.5, 4)):
        show("sampling", done, 4)

    assert screen.written == []


@pytest.fixture
def progress(pytester, monkeypatch):
    def make(isatty, *arguments):
        config = pytester.parseconfig(*arguments)
        lines = []
        writer = SimpleNamespace(fullwidth=80, width_of_current_line=0)
        terminal = SimpleNamespace(isatty=isatty, _tw=writer, write_line=lines.append)
        monkeypatch.setattr(config.pluginmanager, "get_plugin", {"terminalreporter": terminal}.get)
        return progress_for(config)

    return make


def test_a_terminal_gets_a_bar_and_ci_gets_lines(progress, capsys):
    assert isinstance(progress(True), ProgressBar)
    assert isinstance(progress(False), ProgressLines)

    progress(True)("sampling", 1, 2)

    assert capsys.readouterr().out == " sampling 1/2" + "\b" * 13


@pytest.mark.parametrize("isatty", [True, False])
def test_quiet_is_quiet(progress, isatty):
    assert progress(isatty, "-q") is None


def test_progress_is_shown_past_the_capture_on_a_real_terminal(pytester, healthy):
    pexpect = pytest.importorskip("pexpect")
    command = f"{sys.executable} -m pytest --genmodel-ckpt={healthy} -k seeded_sampling -p no:cacheprovider"
    child = pytester.spawn(command, expect_timeout=120)
    child.expect("sampling 1/4")
    child.expect("1 passed")
    child.expect(pexpect.EOF)


def test_an_interrupted_run_leaves_no_bar_on_the_line(pytester, healthy):
    pexpect = pytest.importorskip("pexpect")
    pytester.makeconftest(
        "import pytest\n"
        "from pytest_genmodel.stash import SESSION\n"
        "def pytest_runtest_call(item):\n"
        "    item.config.stash[SESSION].progress('sampling', 1, 4)\n"
        "    raise KeyboardInterrupt\n"
    )
    command = f"{sys.executable} -m pytest --genmodel-ckpt={healthy} -k coverage -p no:cacheprovider"
    child = pytester.spawn(command, expect_timeout=120)
    child.expect("sampling 1/4")
    child.expect("KeyboardInterrupt")
    before = child.before.decode() if isinstance(child.before, bytes) else child.before
    child.expect(pexpect.EOF)

    bar, _, rest = before.partition("\r\n")
    erased = re.findall(r"\x08+( +)\x08+", bar)
    assert erased, (bar, rest)
    assert erased[0] == " " * len(" sampling 1/4")
