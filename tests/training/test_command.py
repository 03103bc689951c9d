"""The user's trainer as a command: how it is spelled, run, watched and ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.training.command import TrainCommand, run_command
from pytest_genmodel.training.output import LINES_KEPT

ALL = "train --base {reference} --out={output} --lr {lr}"

STEPS = """
import sys, torch
layer = torch.nn.Linear(4, 4)
optimizer = torch.optim.AdamW(layer.parameters(), lr=float(sys.argv[1]))
for _ in range(3):
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
"""


def ran(tmp_path, code, *arguments, timeout=60.0, **options):
    return run_command([sys.executable, "-c", code, *arguments], work=tmp_path, timeout=timeout, **options)


def test_values_with_spaces_stay_one_argument_and_other_braces_stay():
    command = TrainCommand.parse(ALL + " --json '{{\"a\": 1}}' '{steps} steps'")

    filled = command.filled({"reference": "/a b/c", "output": "o p", "lr": 1e-4, "steps": 3})

    assert filled == [
        "train", "--base", "/a b/c", "--out=o p", "--lr", "0.0001", "--json", '{{"a": 1}}', "3 steps",
    ]  # fmt: skip


def test_files_that_lie_where_pytest_was_started_are_named_in_full(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    for name in ("train.py", "a.yaml", "configs/b.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    text = "python train.py --config=a.yaml configs/b.yaml ./configs configs {reference} --out={output}"
    arguments = TrainCommand.parse(f"{text} --lr {{lr}} --no=x").arguments

    assert arguments == (
        "python", f"{tmp_path}/train.py", f"--config={tmp_path}/a.yaml", f"{tmp_path}/configs/b.yaml",
        f"{tmp_path}/configs", "configs", "{reference}", "--out={output}", "--lr", "{lr}", "--no=x",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ALL + " --n {step}", r"unknown placeholder \{step\}; did you mean \{steps\}\?"),
        ("train --out {output} --lr {lr}", r"does not say where \{reference\} goes"),
        ("train --base {reference} --lr {lr}", r"does not say where \{output\} goes"),
        ("train --base {reference} --out {output}", r"does not say where \{lr\} goes"),
        (ALL + " 'open", "cannot be split into arguments: No closing quotation"),
    ],
)
def test_wrong_template_is_refused_in_one_line(text, said):
    with pytest.raises(BadInputError, match=said):
        TrainCommand.parse(text)


@pytest.mark.parametrize(("rate", "moved"), [("0.0", 0), ("0.1", 2)])
def test_optimizers_of_the_process_are_watched_from_outside(tmp_path, rate, moved):
    done = ran(tmp_path, STEPS, rate)

    observed = done.observed
    assert (done.status, observed.steps, observed.largest_rate) == (0, 3, float(rate))
    assert (observed.moved, observed.kept, observed.complete) == (moved, 2 - moved, True)
    assert observed.optimizers == ["torch.optim.adamw.AdamW"]
    assert observed.learned


def test_process_that_is_killed_has_said_what_its_optimizer_did(tmp_path):
    done = ran(tmp_path, STEPS + "import os\nos._exit(3)", "0.5")

    assert (done.status, done.observed.largest_rate, done.observed.complete) == (3, 0.5, False)


def test_workers_are_watched_too_and_a_rate_in_any_of_them_counts(tmp_path):
    worker = STEPS.replace("float(sys.argv[1])", "0.25")
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}], check=True)"

    done = ran(tmp_path, STEPS + launcher, "0.0")

    assert (done.status, done.observed.steps, done.observed.largest_rate) == (0, 3, 0.25)


def test_nothing_is_observed_where_nothing_is_trained(tmp_path):
    assert ran(tmp_path, "print('hello')").observed is None


def test_sitecustomize_of_the_environment_still_runs(tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("import builtins; builtins.theirs_ran = True")
    monkeypatch.setenv("PYTHONPATH", str(theirs))

    done = ran(tmp_path, "import builtins; print(builtins.theirs_ran)")

    assert done.last_lines == ("True",)


def test_output_is_bounded_and_shown_as_it_comes(tmp_path):
    lines = []

    done = ran(
        tmp_path,
        "import sys\nfor n in range(500): print(n)\nsys.stderr.write('x' * 100_000)",
        echo=lines.append,
    )

    assert len(done.last_lines) == LINES_KEPT
    assert lines[:2] == ["0", "1"]
    assert max(map(len, lines)) <= 2000
    assert sum(map(len, lines)) > 100_000


def test_run_is_offline_in_a_folder_of_its_own_with_fixed_threads(tmp_path):
    code = "import os; print(os.environ['HF_HUB_OFFLINE'], os.environ['OMP_NUM_THREADS'], os.getcwd())"

    done = ran(tmp_path, code, threads=3)

    assert done.last_lines == (f"1 3 {tmp_path / 'cwd'}",)


def test_pythonpath_is_meant_from_where_pytest_was_started(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "my_trainer.py").write_text("print('found')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "lib")

    done = ran(tmp_path, "import my_trainer")

    assert done.last_lines == ("found",)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie whose parent has gone is reaped by init, not by us.
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rsplit(")", 1)[1].split()[0] != "Z"


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def test_run_that_takes_too_long_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_genmodel.training.processes.GRACE_SECONDS", 0.3)

    done = ran(tmp_path, STUBBORN, timeout=3.0)

    assert done.status is None
    assert "took longer than it may" in done.how_it_ended
    assert not any(alive(int(pid)) for pid in done.last_lines[0].split())


def test_broken_off_run_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_genmodel.training.processes.GRACE_SECONDS", 0.3)
    lines: list[str] = []

    def interrupt():
        while not lines:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        ran(tmp_path, STUBBORN, echo=lines.append)

    assert not any(alive(int(pid)) for pid in lines[0].split())


def test_program_that_is_not_there_is_said_in_one_line(tmp_path):
    with pytest.raises(BadInputError, match="does not start: no-such-trainer: No such file or directory"):
        run_command(["no-such-trainer"], work=tmp_path, timeout=5)
