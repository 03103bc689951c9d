"""A long scan on a real terminal: a bar while it runs, and nothing left behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

GB = 10**9
COMMAND = (sys.executable, "-m", "pytest_genmodel.cli")


def write_large(file: Path, size: int = 60 * GB) -> Path:
    """A safetensors file of zeros that takes no room on the disk, and long to read."""
    count = 60
    width = size // count // 4 * 4
    entries = {
        f"blocks.{number}.weight": {
            "dtype": "F32",
            "shape": [width // 4],
            "data_offsets": [number * width, (number + 1) * width],
        }
        for number in range(count)
    }
    header = json.dumps(entries).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + count * width)
    return file


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """A folder for temporary files of the command's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def large(tmp_path) -> list[str]:
    if sys.platform != "linux":
        pytest.skip("needs a file system with sparse files")
    return [str(write_large(tmp_path / f"{name}.safetensors")) for name in "ab"]


def shown(output: str) -> list[str]:
    """The lines of a terminal after `output`, as far as backspaces and line ends make them."""
    lines: list[list[str]] = [[]]
    column = 0
    for char in output:
        if char == "\n":
            lines.append([])
        elif char == "\r":
            column = 0
        elif char == "\b":
            column = max(0, column - 1)
        else:
            row = lines[-1]
            row.extend(" " * (column - len(row)))
            row[column : column + 1] = [char]
            column += 1
    return ["".join(row).rstrip() for row in lines]


@pytest.mark.parametrize("command", ["diff", "inspect"])
def test_ctrl_c_takes_the_bar_away_and_ends_with_130(large, temporary, command):
    pexpect = pytest.importorskip("pexpect")
    files = large if command == "diff" else large[:1]
    child = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], command, *files], encoding="utf-8", timeout=120, dimensions=(24, 100)
    )
    child.expect(r" \[[#.]{20}\] +\d+%, [\d.]+ of 60.0 GB")
    seen = child.before + child.after

    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()

    assert (child.exitstatus, child.signalstatus) == (130, None), child.before
    lines = [line.removeprefix("^C").strip() for line in shown(seen + child.before)]
    assert [line for line in lines if line][-1] == "genmodel: interrupted"
    assert not [line for line in lines if "%" in line]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--no-progress",), ("-q",)])
def test_no_bar_where_none_is_wanted(large, temporary, arguments):
    pexpect = pytest.importorskip("pexpect")
    child = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], "diff", *arguments, *large], encoding="utf-8", timeout=60
    )
    time.sleep(3)

    child.sendintr()
    child.expect(pexpect.EOF)

    assert "%" not in child.before


def test_sigterm_removes_the_temporary_folder(large, temporary):
    with subprocess.Popen(
        [*COMMAND, "inspect", large[0]], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        wait_for(lambda: list(temporary.iterdir()))

        child.terminate()
        _, err = child.communicate(timeout=60)

    assert child.returncode == -signal.SIGTERM
    assert err == b""
    assert list(temporary.iterdir()) == []


def test_sigterm_removes_the_plugins_work_folder(temporary, pytester):
    file = pytester.makepyfile(
        """
        import time
        from pytest_genmodel.stash import SESSION

        def test_long(request):
            (request.config.stash[SESSION].workdir / "half-written").write_text("x")
            time.sleep(60)
        """
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(pytester.path / "base"),
    ]
    with subprocess.Popen([*command, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        wait_for(lambda: list(temporary.glob("genmodel-*/half-written")))

        child.terminate()
        child.communicate(timeout=60)

    assert child.returncode == -signal.SIGTERM
    assert list(temporary.glob("genmodel-*")) == []


def test_a_forked_child_that_is_ended_leaves_the_folder_to_its_parent(temporary):
    code = (
        "import os, signal, time\n"
        "from pytest_genmodel.work_folder import WorkFolder\n"
        "folder = WorkFolder()\n"
        "(folder.path / 'x').write_text('x')\n"
        "ready, say = os.pipe()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.write(say, b'.')\n"
        "    for _ in range(600):\n"
        "        time.sleep(0.1)\n"
        "    os._exit(1)\n"
        "os.read(ready, 1)\n"
        "os.kill(child, signal.SIGTERM)\n"
        "_, status = os.waitpid(child, 0)\n"
        "assert os.WTERMSIG(status) == signal.SIGTERM\n"
        "assert (folder.path / 'x').exists()\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

    assert list(temporary.iterdir()) == [], "removed at the end of the process"


def test_a_handler_of_somebody_elses_is_kept():
    code = (
        "import signal\n"
        "mine = lambda *_: None\n"
        "signal.signal(signal.SIGTERM, mine)\n"
        "from pytest_genmodel.work_folder import WorkFolder\n"
        "WorkFolder().path\n"
        "assert signal.getsignal(signal.SIGTERM) is mine\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


def test_colour_is_for_a_terminal_that_wants_it(healthy, copy):
    pexpect = pytest.importorskip("pexpect")
    (copy / "vae" / "config.json").write_text("{")
    for variables, coloured in ({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False):
        environment = {**os.environ, "TERM": "xterm", **variables}
        if not variables:
            environment.pop("NO_COLOR", None)
        out = pexpect.run(
            " ".join([*COMMAND, "diff", str(healthy), str(copy)]),
            env=environment,
            encoding="utf-8",
            timeout=120,
        )
        assert ("\x1b[" in out) == coloured, variables


def wait_for(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it never came to that")
