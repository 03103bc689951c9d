"""The tutorials are true: every block of theirs is run, and gives what the page shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools import tutorials

ROOT = Path(__file__).resolve().parent.parent
RIGHT = """# Page

```python title="a/b.txt"
one 1.5
```

```console
$ cat a/b.txt
one 2.5
$ ls nowhere; \\
    exit 3
ls: cannot access 'nowhere': No such file or directory
$ echo $?
3
$ printf 'first\\nsecond\\nthird\\nlast\\n'
first
...
last
```
"""


def test_every_block_gives_what_its_page_shows():
    """All pages in one process: what is slow is imported once."""
    ran = subprocess.run(
        [sys.executable, "-m", "tools.tutorials", "--check"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n(python -m tools.tutorials writes what comes out)"
    assert len(tutorials.PAGES) >= 6
    for page in tutorials.PAGES:
        assert f"{page.name}: " in ran.stdout


def test_workflows_are_valid():
    blocks = [
        block
        for page in tutorials.PAGES
        for block in tutorials.BLOCK.findall(page.read_text(encoding="utf-8"))
    ]
    workflows = [yaml.safe_load(text) for language, _, text in blocks if language == "yaml"]
    assert len(workflows) >= 2
    for workflow in workflows:
        assert all(job["steps"] for job in workflow["jobs"].values())


def _steps(tmp_path, text):
    page, folder = tmp_path / "page.md", tmp_path / "folder"
    page.write_text(text)
    folder.mkdir()
    return list(tutorials.play(page, folder))


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setitem(os.environ, "LANG", "C")


def test_page_that_is_right_has_no_problem(tmp_path):
    steps = _steps(tmp_path, RIGHT)
    assert [step.problem for step in steps] == [None, None, None]
    assert [step.status for step in steps] == [0, 3, 0]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("one 2.5", "two 2.5", "did not come"),
        ("one 2.5\n", "", "shows nothing"),
        ("one 2.5", "one", "did not come"),
        ("\n3\n$", "\n2\n$", "exit status 3, the page says 2"),
        ("$ echo $?\n3\n", "", "exit status 3, the page says 0"),
        ("...\nlast", "...\nsecond\nfirst", "did not come"),
    ],
)
def test_page_that_is_wrong_is_told(tmp_path, right, wrong, said):
    assert RIGHT.count(right) == 1
    problems = [step.problem for step in _steps(tmp_path, RIGHT.replace(right, wrong)) if step.problem]
    assert len(problems) == 1
    assert said in problems[0]


def test_outputs_are_written_and_what_is_left_out_stays_so(tmp_path):
    stale = (
        RIGHT.replace("one 2.5", "stale")
        .replace("first\n...", "stale\n...")
        .replace("...\nlast", "...\nstale")
    )
    steps = _steps(tmp_path, stale)
    assert tutorials.rewritten(stale, steps) == RIGHT.replace("one 2.5", "one 1.5")


def test_block_that_nobody_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no title"):
        _steps(tmp_path, "```python\nprint(1)\n```\n")
