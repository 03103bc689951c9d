"""Progress on a terminal: one line that erases itself; nothing where nobody watches."""

from __future__ import annotations

import sys

import pytest

from pytest_genmodel.progress import terminal_progress


class Terminal:
    def __init__(self, isatty):
        self.isatty = isatty


@pytest.fixture
def progress(pytester, monkeypatch):
    def make(isatty, *arguments):
        config = pytester.parseconfig(*arguments)
        terminal = Terminal(isatty)
        monkeypatch.setattr(
            config.pluginmanager,
            "get_plugin",
            lambda name: {"terminalreporter": terminal}.get(name),
        )
        return terminal_progress(config)

    return make


def test_progress_erases_what_it_wrote(progress, capsys):
    show = progress(True)

    show("sampling", 1, 2)
    first = capsys.readouterr().out
    show("sampling", 2, 2)
    last = capsys.readouterr().out

    assert first == " sampling 1/2" + "\b" * 13
    assert last.strip("\b").strip() == "", "the last step leaves nothing behind"


@pytest.mark.parametrize(("isatty", "arguments"), [(False, []), (True, ["-q"])])
def test_nobody_watches(progress, isatty, arguments):
    assert progress(isatty, *arguments) is None


def test_progress_is_shown_past_the_capture_on_a_real_terminal(pytester, healthy):
    pexpect = pytest.importorskip("pexpect")
    command = f"{sys.executable} -m pytest --genmodel-ckpt={healthy} -k seeded_sampling -p no:cacheprovider"
    child = pytester.spawn(command, expect_timeout=120)
    child.expect("sampling 1/4")
    child.expect("1 passed")
    child.expect(pexpect.EOF)
