"""The doors to diffusers and transformers: made safe before they are opened, quiet while they are used."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.errors import BadInputError, MissingExtraError


def diffusers() -> Any:
    """Import diffusers with remote code switched off for the process, and give the module.

    diffusers reads the switch once, at import; a process that imported it earlier keeps its own setting.
    """
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return importlib.import_module("diffusers")


def class_named(library: str, name: str) -> Any:
    """Give the class `name` of diffusers or transformers.

    Raises:
        BadInputError: the installed library has no such class.
    """
    module = diffusers() if library == "diffusers" else importlib.import_module(library)
    found = getattr(module, name, None)
    if found is None:
        raise BadInputError(
            f"{library} {module.__version__} has no class {name}: install the version that wrote the checkpoint"
        )
    return found


def require_peft(purpose: str) -> None:
    """Check that peft can be imported.

    Raises:
        MissingExtraError: it is not installed; names the extra.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "lora", purpose)


def dtype_keyword(library: str) -> str:
    """Give the name under which `from_pretrained` of the installed library takes a dtype."""
    if library == "transformers":
        return "dtype"
    version = tuple(int(part) for part in diffusers().__version__.split(".")[:2])
    return "dtype" if version >= (0, 42) else "torch_dtype"


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keep the libraries' log lines and warnings off the terminal; gives the list they are collected in."""
    lines: list[str] = []
    handler = _Collector(lines)
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "peft", "accelerate")]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    progress_bars = _progress_bar_switches()
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
    for module in progress_bars:
        module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield lines
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        for module in progress_bars:
            module.enable_progress_bar()


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def _progress_bar_switches() -> list[Any]:
    """Give the libraries' logging modules whose progress bars are on, so that they can be put back."""
    names = ("diffusers.utils.logging", "transformers.utils.logging")
    modules = [importlib.import_module(name) for name in names]
    return [module for module in modules if module.is_progress_bar_enabled()]
