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
        """Whether no other pipeline holds anything."""
        return all(other is holder for other in self._holders)

    def find(self, key: str) -> Any | None:
        """Give a live component that any pipeline holds under `key`."""
        return next((live for holder in self._holders if (live := holder.live(key)) is not None), None)

    def enter(self, holder: Holder, keys: Collection[str]) -> None:
        """Make room for `holder`, which is about to load; the others keep at most what lies under `keys`."""
        others = [other for other in self._holders if other is not holder]
        self._holders = [*others, holder]
        for other in others[: len(self._holders) - self.limit]:
            other.release(keep=keys)

    def leave(self, holder: Holder) -> None:
        """Forget `holder`, which holds nothing any more."""
        self._holders = [other for other in self._holders if other is not holder]
