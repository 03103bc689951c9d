"""The exceptions of pytest-genmodel: one root, so that a caller can catch them all.

Each message is written for the person who runs the gate: what was wrong, where, and what to do.
"""

from __future__ import annotations


class GenmodelError(Exception):
    """Root of every exception this package raises on purpose."""


class BadInputError(GenmodelError):
    """Something the user gave (an option, a path, a marker, an argument) cannot be used."""


class MissingExtraError(BadInputError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'pytest-genmodel[{extra}]'")
        self.package = package
        self.extra = extra


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its class where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
