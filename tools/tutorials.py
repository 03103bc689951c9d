"""Run the tutorials: `python -m tools.tutorials` does what each page says and writes what came out into the page.

`--check` writes nothing and says where page and truth part. A page is one session in a folder of its own:

- a fenced block with `title="PATH"` is a file, and is written;
- a `console` block is commands (`$ `) with their output; the exit status must be 0, or what `$ echo $?` shows then;
- of a long output, only the lines before and after a line `...` stand in the page.

`pytest`, `genmodel` and `python` run in a fork of this process, where torch and diffusers are imported already: the
same commands without four seconds of imports each. Of figures with a point only the place is compared, not the value.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md")))
FORKED = ("pytest", "genmodel", "python")
CLONE = "<!-- in a clone -->"
"""Says of a page that its folder is a clone of the repository: the package and the shared parts of its tests."""
ELLIPSIS = "..."
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block: its language, what stands beside it, its text."""
_TITLE = re.compile(r'title="([^"]+)"')
_NUMBER = re.compile(r"\d+\.\d+(e[+-]?\d+)?|\d+e[+-]?\d+")


@dataclass(frozen=True)
class Command:
    """A command with the output that the page shows, and the exit status that it says (0 where it says none)."""

    text: str
    shown: str
    status: int = 0


@dataclass(frozen=True)
class Step:
    """What came of a command: `problem` is None where it is what the page says."""

    command: Command
    status: int
    output: str

    @property
    def ended_otherwise(self) -> str | None:
        """Whether the exit status is another one; a page does not get that by itself."""
        if self.status != self.command.status:
            return f"exit status {self.status}, the page says {self.command.status}"
        return None

    @property
    def problem(self) -> str | None:
        """What is not as the page says."""
        if self.ended_otherwise:
            return self.ended_otherwise
        if (missing := _missing(self.command.shown, self.output)) is not None:
            return f"the page shows what did not come: {missing}"
        return None


def commands(block: str) -> Iterator[Command]:
    """The commands of a console block."""
    found: list[Command] = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.split("\n")
        count = next(number for number, line in enumerate(lines, 1) if not line.endswith("\\"))
        text, shown = "\n".join(lines[:count]), "\n".join(lines[count:]).rstrip("\n")
        if text == "echo $?":
            found[-1] = Command(found[-1].text, found[-1].shown, int(shown))
        else:
            found.append(Command(text, shown))
    yield from found


def play(page: Path, folder: Path) -> Iterator[Step]:
    """Do what the page says, in the empty folder `folder`, step by step.

    Raises:
        ValueError: a block of Python, TOML or YAML has no title, so that nobody runs it.
    """
    text = page.read_text(encoding="utf-8")
    environment = _environment(folder)
    if _is_in_a_clone(page):
        shutil.copytree(
            ROOT / "pytest_genmodel", folder / "pytest_genmodel", ignore=shutil.ignore_patterns("*.pyc")
        )
        _copy_tests(folder)
        environment["PYTHONPATH"] = str(folder)
    for language, information, block in BLOCK.findall(text):
        if title := _TITLE.search(information):
            file = folder / title[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block, encoding="utf-8")
        elif language == "console":
            for command in commands(block):
                status, output = _run(command.text, folder, environment)
                yield Step(command, status, _without_paths(output, folder))
        elif language in ("python", "toml", "yaml"):
            raise ValueError(f"{page.name}: a block of {language} has no title, and is run by nobody")


def _copy_tests(folder: Path) -> None:
    for name in ("conftest.py", "tests/__init__.py", "tests/pipelines/families/whole.py"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("" if name == "conftest.py" else (ROOT / name).read_text(encoding="utf-8"))


def _environment(folder: Path) -> dict[str, str]:
    """What the commands find around them: nothing of CI, no colours, eighty columns."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "PYTHONPATH", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "COLUMNS": "80",
        "NO_COLOR": "1",
        **OFFLINE,
    }


def _run(command: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    words = shlex.split(command.replace("\\\n", " ").replace("$PWD", str(folder)))
    if words[0] in FORKED and not re.search(r"[|;&<>]", re.sub(r"'[^']*'|\"[^\"]*\"", "", command)):
        return _forked(words, folder, environment)
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout


def _forked(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if not child:
            status = 70
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.chdir(folder)
                os.environ.clear()
                os.environ.update(environment)
                sys.path[0] = environment.get(
                    "PYTHONPATH", ""
                )  # it was the folder that this tool was started in
                status = _main(words)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, waited = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(waited), output.read().decode("utf-8", "replace")


def _main(words: list[str]) -> int:
    sys.argv = words
    try:
        if words[0] == "pytest":
            import pytest

            # Warned of since the libraries are imported already.
            return int(pytest.main([*words[1:], "-W", "ignore::pytest.PytestAssertRewriteWarning"]))
        if words[0] == "genmodel":
            from pytest_genmodel.cli.main import main

            return int(main(words[1:]))
        sys.argv = words[1:]
        sys.path.insert(0, str(Path(words[1]).resolve().parent))
        runpy.run_path(words[1], run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _is_in_a_clone(page: Path) -> bool:
    return CLONE in page.read_text(encoding="utf-8")


def _warm_up() -> None:
    """Import what is slow; not this package, of which a page may have a copy of its own."""
    os.environ |= OFFLINE  # read when the libraries are imported
    import diffusers
    import hypothesis  # noqa: F401
    import peft  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torchmetrics.functional  # noqa: F401
    import transformers

    torch.set_num_threads(1)
    for name in ("CogVideoXImageToVideoPipeline", "CogVideoXPipeline", "CogVideoXDDIMScheduler"):
        getattr(diffusers, name)
    for name in ("T5EncoderModel", "T5TokenizerFast"):
        getattr(transformers, name)


def _import_package() -> None:
    """Import all of this package, for the pages that have no copy of it."""
    import pytest_genmodel

    for module in pkgutil.walk_packages(pytest_genmodel.__path__, "pytest_genmodel."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)


def _without_paths(output: str, folder: Path) -> str:
    return "\n".join(
        line.rstrip() for line in output.replace(str(folder), "/home/me/project").splitlines()
    ).strip("\n")


def _tokens(text: str) -> list[str]:
    return _NUMBER.sub("#", re.sub(r"=+|-{3,}", " ", text)).split()


def _missing(shown: str, output: str) -> str | None:
    """The first part of what is shown that is not in the output, in order; None where all of it is."""
    chunks = [
        chunk for chunk in re.split(rf"^{re.escape(ELLIPSIS)}$", shown, flags=re.MULTILINE) if chunk.strip()
    ]
    actual, at = f" {' '.join(_tokens(output))} ", 0
    if not chunks and output.strip() and ELLIPSIS not in shown:
        return f"(the page shows nothing) {output}"
    for chunk in chunks:
        wanted = f" {' '.join(_tokens(chunk))} "
        at = actual.find(wanted, at)
        if at < 0:
            return chunk
        at += len(wanted) - 1
    if ELLIPSIS not in shown.split("\n") and actual.split() != _tokens(shown):
        return shown
    return None


def _shortened(shown: str, output: str) -> str:
    """The output, with as many lines before and after an ellipsis as the page has now."""
    old, new = shown.split("\n"), output.split("\n")
    if ELLIPSIS not in old:
        return output
    head, tail = old.index(ELLIPSIS), len(old) - 1 - old.index(ELLIPSIS)
    if head + tail >= len(new):
        return output
    return "\n".join([*new[:head], ELLIPSIS, *(new[-tail:] if tail else [])])


def rewritten(text: str, steps: list[Step]) -> str:
    """The page's text with the outputs and exit statuses of `steps`."""
    rest = iter(steps)

    def block(match: re.Match[str]) -> str:
        if match[1] != "console" or _TITLE.search(match[2]):
            return match[0]
        lines = []
        for _, step in zip(list(commands(match[3])), rest, strict=False):
            lines += [f"$ {step.command.text}", *filter(None, [_shortened(step.command.shown, step.output)])]
            lines += ["$ echo $?", str(step.status)] if step.status else []
        return f"```{match[1]}{match[2]}\n" + "\n".join(lines) + "\n```"

    return BLOCK.sub(block, text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    options = parser.parse_args()
    _warm_up()
    problems = 0
    for page in sorted(options.pages, key=_is_in_a_clone, reverse=True):
        if not _is_in_a_clone(page):
            _import_package()
        with tempfile.TemporaryDirectory(prefix="genmodel-tutorial-") as folder:
            steps = list(play(page, Path(folder).resolve()))
        wrong = [step for step in steps if (step.problem if options.check else step.ended_otherwise)]
        for step in wrong:
            print(f"{page.name}: $ {step.command.text}\n  {step.problem}\n  it gave:\n{step.output}\n")
        print(f"{page.name}: {len(steps)} commands, {len(wrong)} not as the page says", flush=True)
        problems += len(wrong)
        if not options.check and not wrong:
            page.write_text(rewritten(page.read_text(encoding="utf-8"), steps), encoding="utf-8")
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
