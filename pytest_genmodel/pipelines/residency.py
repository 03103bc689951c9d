"""Which components are in memory: those of one pipeline, unless a test asks for two."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol


class Holder(Protocol):
    """Something that keeps live components."""

    def live(self, key: str) -> Any | None:
        """Give the live component of this key, if it is held."""
        ...

    def release(self, keep: Collection[str] = ()) -> None:
        """Let go of every live component but those of the keys in `keep`."""
        ...


@dataclass
class Residency:
    """Shares components between pipelines by content, and lets go of what the next one does not need.

    `limit` is the number of pipelines that may be resident at the same time.
    """

    limit: int = 1
    _holders: list[Holder] = field(default_factory=list)

    def is_alone(self, holder: Holder) -> bool:
        """Whether no other pipeline is resident."""
        return all(other is holder for other in self._holders)

    def find(self, key: str) -> Any | None:
        """Give a live component that any pipeline holds under `key`."""
        return next((live for holder in self._holders if (live := holder.live(key)) is not None), None)

    def enter(self, holder: Holder, keys: Collection[str]) -> None:
        """Make room for `holder`, which is about to load; others keep what lies under `keys`."""
        if holder in self._holders:
            self._holders.remove(holder)
        while len(self._holders) >= self.limit:
            self._holders.pop(0).release(keep=keys)
        self._holders.append(holder)

    def leave(self, holder: Holder) -> None:
        """Forget `holder`."""
        if holder in self._holders:
            self._holders.remove(holder)
