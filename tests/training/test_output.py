"""What a command prints is bounded, whatever the amount; a progress bar is its last state."""

from __future__ import annotations

import io
import sys
import tracemalloc

import pytest

from pytest_genmodel.training.command import run_command
from pytest_genmodel.training.output import LINES_KEPT, LONGEST_LINE, OutputReader


def read(data: bytes, *, echo=None):
    reader = OutputReader(io.BufferedReader(io.BytesIO(data)), echo)
    reader.run()
    return reader.last_lines


@pytest.mark.parametrize(
    ("printed", "lines"),
    [
        (b"", ()),
        (b"one\ntwo\n", ("one", "two")),
        (b"one\r\ntwo", ("one", "two")),
        (b"\r 10%\r 50%\r100%", ("100%",)),
        (b"\r 10%\r 50%\r100%\nsaved\n", ("100%", "saved")),
        (b"loss \xff\n", ("loss �",)),
        (b"\n\n", ("", "")),
    ],
)
def test_lines_are_what_a_terminal_would_show(printed, lines):
    assert read(printed) == lines


def test_long_line_is_cut_and_shown_whole():
    shown = []

    kept = read(b"x" * 5 * LONGEST_LINE, echo=shown.append)

    assert [len(line) for line in kept] == [LONGEST_LINE] * 5
    assert sum(map(len, shown)) == 5 * LONGEST_LINE


def test_progress_bar_is_shown_while_it_goes_and_kept_once(monkeypatch):
    monkeypatch.setattr("pytest_genmodel.training.output.BAR_SECONDS", 0.0)
    shown: list[str] = []
    reader = OutputReader(io.BytesIO(), shown.append)
    for state in (b"\r 1/3", b"\r 2/3", b"\r 3/3", b"\ndone\n"):
        reader._take(state)

    assert shown == [" 1/3", " 2/3", " 3/3", " 3/3", "done"]
    assert reader.last_lines == (" 3/3", "done")


@pytest.mark.parametrize("piece", ["x" * 79 + "\\n", "x" * 80, "\\r" + "x" * 79])
def test_a_hundred_megabytes_do_not_fill_the_memory(tmp_path, piece):
    code = f"import sys\nblock = '{piece}' * 12_500\nfor _ in range(100): sys.stdout.write(block)\nprint('the end')"
    tracemalloc.start()
    try:
        done = run_command([sys.executable, "-c", code], work=tmp_path, timeout=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert done.status == 0
    assert done.last_lines[-1].endswith("the end")
    assert len(done.last_lines) <= LINES_KEPT
    assert peak < 5_000_000
