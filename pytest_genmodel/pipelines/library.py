"""The doors to diffusers and transformers: made safe before they are opened, quiet while they are used."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.errors import BadInputError, MissingExtraError


def diffusers() -> Any:
    """Import diffusers and give the module.

    diffusers reads its switch for remote code, which this package has set, once at import; a process that imported
    it earlier keeps its own setting.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return importlib.import_module("diffusers")


def class_named(library: str, name: str) -> Any:
    """Give the class `name` of diffusers or transformers; `library` may be a module of theirs.

    Raises:
        BadInputError: the installed library has no such class, or cannot import it.
    """
    top = library.partition(".")[0]
    module = diffusers() if top == "diffusers" else importlib.import_module(top)
    version = module.__version__
    try:
        module = module if library == top else importlib.import_module(library)
        found = getattr(module, name)
        if not isinstance(found, type):  # the name comes from the checkpoint: a function is not asked for
            raise AttributeError(name)
        _stand_in_for_ftfy(sys.modules.get(found.__module__))
        return found
    except AttributeError:
        raise BadInputError(
            f"{library} {version} has no class {name}: install the version that wrote the checkpoint"
        ) from None
    except (
        ImportError,
        RuntimeError,
    ) as error:  # what a lazy import raises for versions that do not fit together
        reason = str(error).strip().splitlines()[-1]
        raise BadInputError(
            f"{library} {version} cannot import {name} ({reason}): the installed versions of diffusers, "
            "transformers, peft and accelerate do not fit together"
        ) from None


class _PlainText:
    """What stands in for ftfy in a pipeline's module: it mends broken letters, and of ASCII none is broken."""

    @staticmethod
    def fix_text(text: str) -> str:
        if not text.isascii():
            raise BadInputError(
                f"diffusers cleans the prompt with ftfy, which is not installed, and {text[:40]!r} is more than "
                "ASCII: pip install ftfy"
            )
        return text


def _stand_in_for_ftfy(module: Any) -> None:
    """Let a pipeline run without ftfy: those of Wan's kind import it where it is, and use it in any case."""
    if hasattr(module, "is_ftfy_available") and not hasattr(module, "ftfy"):
        module.ftfy = _PlainText


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
    with warnings.catch_warnings(), _no_progress_bars():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
            if logger.getEffectiveLevel() != logging.WARNING:  # setting it empties the caches of every logger
                logger.setLevel(logging.WARNING)
        try:
            yield lines
        finally:
            for logger, handlers, propagate, level in before:
                logger.handlers, logger.propagate = handlers, propagate
                if logger.level != level:
                    logger.setLevel(level)


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Switch off the progress bars that are on; transformers' switch turns the hub's as well."""
    hub = importlib.import_module("huggingface_hub.utils")
    names = ("diffusers.utils.logging", "transformers.utils.logging")
    modules = [importlib.import_module(name) for name in names]
    shown = [module for module in modules if module.is_progress_bar_enabled()]
    hub_was_silent = hub.are_progress_bars_disabled()
    with warnings.catch_warnings():  # the hub warns where the environment has fixed its switch
        warnings.simplefilter("ignore")
        for module in shown:
            module.disable_progress_bar()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for module in shown:
                module.enable_progress_bar()
            if hub_was_silent:
                hub.disable_progress_bars()
