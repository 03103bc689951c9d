"""What a pickle would build, as symbols: names and arguments without the objects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

_MOST_SHOWN = 60
"""Characters of one text in a message; a pickle may hold millions."""
_MOST_ITEMS = 6
_MOST_LEVELS = 4


@dataclass(frozen=True)
class Global:
    """Something that would be imported, by its dotted name."""

    name: str


@dataclass(frozen=True)
class Call:
    """The result of calling `function`, where `arguments` were on the stack."""

    function: object
    arguments: object


@dataclass(frozen=True)
class Storage:
    """Bytes that lie beside the pickle: `numel` elements of `itemsize` bytes under the name `key`."""

    key: str
    numel: int
    itemsize: int

    @property
    def size(self) -> int:
        """Bytes it claims."""
        return self.numel * self.itemsize


@dataclass(frozen=True)
class Tuple:
    """A tuple. `weight` is the number of items that hashing it visits, `depth` how deep they are nested."""

    items: tuple[object, ...]
    weight: int
    depth: int


@dataclass
class Container:
    """A list, a set or a dictionary: its first items (a dictionary's keys and values in turn), and their weight."""

    items: list[object] = field(default_factory=list)
    weight: int = 0
    depth: int = 0

    def add(self, items: Iterable[object]) -> None:
        """Take more items; only what a message would show is kept."""
        for item in items:
            if len(self.items) <= _MOST_ITEMS:
                self.items.append(item)
            self.weight += weight(item)
            self.depth = max(self.depth, depth(item))


UNKNOWN = object()
"""A value that plays no part: a buffer from elsewhere, an object that was set up."""


def tuple_of(items: Iterable[object]) -> Tuple:
    """Give the tuple of `items`."""
    items = tuple(items)
    return Tuple(items, 1 + sum(map(weight, items)), 1 + max(map(depth, items), default=0))


def weight(value: object) -> int:
    """Items that are visited when `value` is hashed."""
    if isinstance(value, Call):  # torch.Size, which is hashed like the tuple that it was made of
        return 1 + weight(value.arguments)
    return value.weight if isinstance(value, Tuple) else 1


def depth(value: object) -> int:
    """How deep tuples are nested in `value`."""
    return value.depth if isinstance(value, Tuple) else 0


def described(value: object, levels: int = _MOST_LEVELS) -> str:
    """Spell a value as Python would, shortened, in printable characters."""
    if isinstance(value, Global):
        return value.name
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= _MOST_SHOWN else f"{value[:_MOST_SHOWN]!r}..."
    if value is None or isinstance(value, (bool, int, float)):
        text = repr(value) if not isinstance(value, int) or value.bit_length() < 200 else hex(value)
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
    if levels == 0:
        return "..."
    if isinstance(value, Call):
        return f"{described(value.function, levels - 1)}{_arguments(value.arguments, levels - 1)}"
    if isinstance(value, Tuple):
        return (
            f"({described(value.items[0], levels - 1)},)"
            if len(value.items) == 1
            else _arguments(value, levels - 1)
        )
    if isinstance(value, Container):
        return f"[{_listed(value.items, levels - 1)}]"
    if isinstance(value, Storage):
        return f"<storage {value.key[:_MOST_SHOWN]!r}>"
    return "..."


def _arguments(value: object, levels: int) -> str:
    if isinstance(value, Tuple):
        return f"({_listed(value.items, levels)})"
    return f"(*{described(value, levels)})"


def _listed(items: Iterable[object], levels: int) -> str:
    items = list(items)
    shown = [described(item, levels) for item in items[:_MOST_ITEMS]]
    return ", ".join(shown + ["..."] * (len(items) > _MOST_ITEMS))
