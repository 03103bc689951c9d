"""Which invariants say a rule's code: read from their source, so that nobody keeps a list of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_CLAIM = re.compile(r"^@invariant\b.*?^def (\w+)", re.MULTILINE | re.DOTALL)


def said_by(code: str) -> tuple[str, ...]:
    """Names of built-in invariants whose own module (or folder) names the code, sorted; imports none of them.

    What an invariant takes from a lower floor is not looked at, so that more invariants may say it than these.
    """
    return tuple(sorted({name for source in _sources() for name in _in(source, code)}))


def _sources() -> Iterator[str]:
    """The text of each module; that of a folder as one, its `__init__` with the claim first."""
    here = Path(__file__).parent
    yield from (path.read_text("utf-8") for path in sorted(here.glob("*.py")))
    for package in sorted(here.glob("*/__init__.py")):
        others = sorted(path for path in package.parent.glob("*.py") if path != package)
        yield "\n".join(path.read_text("utf-8") for path in (package, *others))


def _in(source: str, code: str) -> Iterator[str]:
    """The invariant that the code stands in or behind; the first of the module for what stands above all of them."""
    starts = [(match.start(), match[1]) for match in _CLAIM.finditer(source)]
    for place in re.finditer(f'"{re.escape(code)}"', source):
        before = [name for start, name in starts if start < place.start()]
        yield from before[-1:] or [name for _, name in starts[:1]]
