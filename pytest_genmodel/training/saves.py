"""Which files a process writes tensors to, and whether they are the ones that it trained.

Seen where safetensors and torch write; nothing that is saved is changed, and a save never fails for being watched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

_DEEPEST = 6
"""Levels of dictionaries and lists in which tensors are looked for."""


class SaveWatch:
    """Watches the saves of this process until `remove`.

    Args:
        trained: gives the addresses of the parameters that the optimizers were given.
        note: told of each file that tensors were written to, and whether one of those parameters is among them (a
            copy of it, or what was gathered from several ranks, is not recognised).
    """

    def __init__(self, trained: Callable[[], set[int]], note: Callable[[str, bool], None]) -> None:
        self._trained = trained
        self._note = note
        self._holds_trained = False
        self._undo: list[tuple[Any, str, Any]] = []
        with suppress(ImportError):
            self._watch_safetensors()
        self._watch_torch()

    def remove(self) -> None:
        """Take the watch off."""
        for module, name, original in reversed(self._undo):
            setattr(module, name, original)
        self._undo.clear()

    def _watch_safetensors(self) -> None:
        """Watch what `save_file` calls, whoever imported it before: first the tensors pass, then the file's name."""
        import safetensors.torch as library

        flatten = "_flatten_as_ptr" if hasattr(library, "_flatten_as_ptr") else "_flatten"
        self._wrap(library, flatten, self._see_tensors)
        self._wrap(library, "serialize_file", self._see_file)

    def _watch_torch(self) -> None:
        import torch

        self._wrap(torch.serialization, "save", self._see_save)
        self._wrap(torch, "save", self._see_save)

    def _wrap(self, module: Any, name: str, see: Callable[..., None]) -> None:
        original = getattr(module, name, None)
        if original is None:
            return

        def watched(*arguments: Any, **named: Any) -> Any:
            with suppress(Exception):  # the trainer's save counts, not ours to see it
                see(*arguments, **named)
            return original(*arguments, **named)

        setattr(module, name, watched)
        self._undo.append((module, name, original))

    def _see_tensors(self, tensors: Mapping[str, Any], *_: Any) -> None:
        self._holds_trained = self._any_trained(tensors.values())

    def _see_file(self, _: Any, filename: Any, *__: Any, **___: Any) -> None:
        self._note(os.path.realpath(os.fspath(filename)), self._holds_trained)

    def _see_save(self, obj: Any, f: Any, *_: Any, **__: Any) -> None:
        name = getattr(f, "name", f)  # an open file knows its name
        if isinstance(name, (str, os.PathLike)):
            self._note(os.path.realpath(os.fspath(name)), self._any_trained(_tensors(obj, _DEEPEST)))

    def _any_trained(self, tensors: Iterable[Any]) -> bool:
        trained = self._trained()
        return any(tensor.data_ptr() in trained for tensor in tensors if tensor.numel())


def _tensors(value: Any, deep: int) -> Iterator[Any]:
    """Every tensor in nested dictionaries, lists and tuples."""
    if hasattr(value, "data_ptr"):
        yield value
    elif deep and isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner, deep - 1)
    elif deep and isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for inner in value:
            yield from _tensors(inner, deep - 1)
