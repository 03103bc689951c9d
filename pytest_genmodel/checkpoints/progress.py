"""How far a long job is: told to whoever wants to show it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far a long job is: `what` it is, `done` of `total`, counted in `unit` ("" for steps, "B" for bytes).

    May be called from several threads; the last call has `done == total`, unless the job was broken off.
    """

    def __call__(self, what: str, done: int, total: int, unit: str = "") -> None:
        """Show it, or not."""
        ...


def silent(what: str, done: int, total: int, unit: str = "") -> None:
    """Show no progress."""
