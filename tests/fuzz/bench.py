"""A valid checkpoint in a folder, damaged and put right again, case after case."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_genmodel.errors import GenmodelError
from tests.fuzz.reading import open_and_read_everything
from tests.fuzz.seeds import SEEDS
from tests.fuzz.strategies import Edit

HANG = 60.0
"""Seconds after which a case is taken to hang; an honest one takes milliseconds."""


class Bench:
    """The seed `name`, built in `folder`, and looked at by `look`. `refused` and `read` count the outcomes."""

    def __init__(
        self, name: str, folder: Path, look: Callable[[Path], object] = open_and_read_everything
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = SEEDS[name](folder)
        self._folder = folder
        self._look = look
        self.files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != "expected.safetensors"
        }
        self.refused = 0
        self.read = 0

    def judge_whole(self) -> None:
        """The seed itself is read (GGUF is refused): nothing would be proved by its damaged copies otherwise."""
        self._judge()
        assert (self.read == 1) is (self.path.suffix != ".gguf"), "the valid checkpoint is not read"
        self.read = self.refused = 0

    def judge(self, damages: list[tuple[str, Edit]]) -> None:
        """Damage the files, read everything, and put them right; other exceptions than the package's own pass."""
        contents: dict[str, bytes] = {}
        for name, edit in damages:
            contents[name] = edit.of(contents.get(name, self.files[name]))
        try:
            for name, content in contents.items():
                (self._folder / name).write_bytes(content)
            self._judge()
        finally:
            for name in contents:
                (self._folder / name).write_bytes(self.files[name])

    def _judge(self) -> None:
        with watched():
            try:
                self._look(self.path)
            except GenmodelError as error:
                message = str(error)
                assert message, "an error that says nothing"
                assert len(message) < 2000, "an error that says too much"
                message.encode()  # whatever stands in the file, it can be printed
                self.refused += 1
            else:
                self.read += 1


@contextmanager
def watched() -> Iterator[None]:
    """End the process, with every thread's traceback, when a case hangs; an alarm that C code cannot miss."""
    faulthandler.dump_traceback_later(HANG, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
