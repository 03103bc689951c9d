"""What a pickle would do when it is loaded, found out without loading it.

A pickle is a program for a small stack machine. This one runs the program on symbols: nothing is imported, nothing
is called, and what would have been is written down with its arguments.
"""

from __future__ import annotations

import pickletools
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field
from typing import IO, Any

from pytest_genmodel.checkpoints.pickles.allowed import STORAGE_BYTES
from pytest_genmodel.checkpoints.pickles.values import (
    UNKNOWN,
    Call,
    Container,
    Global,
    Storage,
    Tuple,
    tuple_of,
    weight,
)

MAX_OPCODES = 4_000_000
"""Steps of one program. A model of a thousand tensors needs forty thousand."""
MAX_DEPTH = 100
"""Levels of nested tuples: the interpreter hashes them by recursion without a limit, and dies of it."""
_LARGEST = (1 << 63) - 1


class MalformedPickleError(Exception):
    """The bytes are no pickle, or one that no honest writer makes; `offset` is where in the pickle."""

    def __init__(self, what: str, offset: int | None, *, ended: bool = False) -> None:
        super().__init__(what)
        self.offset = offset
        self.ended = ended
        """Whether the bytes end before the pickle does."""


@dataclass
class Effects:
    """What loading would do: `calls`, `imports` (called or not) and `storages`, in the order of the program."""

    calls: list[Call] = field(default_factory=list)
    imports: dict[str, None] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    """By key; the largest claim where several are made on one."""
    strange: list[str] = field(default_factory=list)
    """Other things that plain weights have no need for, each in words."""
    result: object = None


def effects(stream: IO[bytes], into: Effects | None = None, most: int = MAX_OPCODES) -> Effects:
    """Run one pickle of `stream`, which is left behind its last byte, on symbols, for at most `most` steps.

    Raises:
        MalformedPickleError: it is no pickle, or asks for more work than an honest one.
    """
    return _Machine(into or Effects(), most).run(stream)


class _Machine:
    def __init__(self, found: Effects, most: int) -> None:
        self._found = found
        self._most = most
        self._stack: list[object] = []
        self._marked: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._work = 0

    def run(self, stream: IO[bytes]) -> Effects:
        offset: int | None = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # genops decodes escapes, and warns of odd ones
                for opcode, argument, offset in pickletools.genops(stream):
                    self._do(opcode.name, argument)
                    self._work += 1
                    if self._work > self._most:
                        raise MalformedPickleError(f"it asks for more than {self._most} steps", offset)
        except MalformedPickleError:
            raise
        except IndexError:
            raise MalformedPickleError("it takes a value from an empty stack", offset) from None
        except KeyError:
            raise MalformedPickleError("it recalls a value that it never stored", offset) from None
        except (ValueError, OverflowError):  # genops: an unknown opcode, a text that is none, the end
            ended = not stream.read(1)
            what = "it ends inside a pickle" if ended else "the bytes are no pickle"
            raise MalformedPickleError(what, offset, ended=ended) from None
        return self._found

    def _do(self, name: str, argument: Any) -> None:
        constant = _CONSTANTS.get(name, self)
        if constant is not self:
            self._push(constant)
        elif name in _ARGUMENT:
            self._push(argument)
        elif name in _CONTAINERS:
            self._push(Container())
        else:
            getattr(self, f"_{name.lower()}", self._nothing)(argument)

    # --- the stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _popped(self) -> object:
        return self._stack.pop()

    def _since_mark(self) -> list[object]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _nothing(self, _: object) -> None:
        """PROTO and FRAME say how the pickle is written; READONLY_BUFFER changes nothing here."""

    def _mark(self, _: object) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: object) -> None:
        self._since_mark()

    def _dup(self, _: object) -> None:
        self._push(self._stack[-1])

    def _next_buffer(self, _: object) -> None:
        self._push(UNKNOWN)

    def _stop(self, _: object) -> None:
        self._found.result = self._popped()

    # --- the memo

    def _binput(self, key: int) -> None:
        self._memo[key] = self._stack[-1]

    _put = _long_binput = _binput

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _binget(self, key: int) -> None:
        self._push(self._memo[key])

    _get = _long_binget = _binget

    # --- containers

    def _make_tuple(self, items: list[object]) -> None:
        made = tuple_of(items)
        if made.depth > MAX_DEPTH or made.weight > MAX_OPCODES:
            raise MalformedPickleError("it nests tuples beyond all use", None)
        self._push(made)

    def _empty_tuple(self, _: object) -> None:
        self._make_tuple([])

    def _tuple1(self, _: object) -> None:
        self._make_tuple([self._popped()])

    def _tuple2(self, _: object) -> None:
        last = self._popped()
        self._make_tuple([self._popped(), last])

    def _tuple3(self, _: object) -> None:
        last, middle = self._popped(), self._popped()
        self._make_tuple([self._popped(), middle, last])

    def _tuple(self, _: object) -> None:
        self._make_tuple(self._since_mark())

    def _list(self, _: object) -> None:
        made = Container()
        made.add(self._since_mark())
        self._push(made)

    def _dict(self, _: object) -> None:
        items = self._since_mark()
        self._hash(items[::2])
        made = Container()
        made.add(items)
        self._push(made)

    def _frozenset(self, _: object) -> None:
        items = self._since_mark()
        self._hash(items)
        self._push(UNKNOWN)

    def _hash(self, keys: list[object]) -> None:
        """Dictionary keys and members of sets are hashed; a number without end is another way to stop the clock."""
        self._work += sum(map(weight, keys))
        if any(isinstance(key, int) and abs(key) > _LARGEST for key in keys):
            raise MalformedPickleError("a dictionary's key is a number beyond 64 bits", None)

    def _into(self, items: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, Container):
            target.add(items)

    def _append(self, _: object) -> None:
        self._into([self._popped()])

    def _appends(self, _: object) -> None:
        self._into(self._since_mark())

    def _setitem(self, _: object) -> None:
        value = self._popped()
        self._set_items([self._popped(), value])

    def _setitems(self, _: object) -> None:
        self._set_items(self._since_mark())

    def _set_items(self, items: list[object]) -> None:
        if len(items) % 2:
            raise MalformedPickleError("a dictionary's key has no value", None)
        self._hash(items[::2])
        self._into(items)

    def _additems(self, _: object) -> None:
        items = self._since_mark()
        self._hash(items)
        self._into(items)

    # --- names and calls

    def _import(self, module: object, name: object) -> Global:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise MalformedPickleError("it imports something that has no name", None)
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        made = Global(f"{module}.{name}")
        self._found.imports[made.name] = None
        return made

    def _global(self, argument: str) -> None:
        self._push(self._import(*_split(argument)))

    def _stack_global(self, _: object) -> None:
        name = self._popped()
        self._push(self._import(self._popped(), name))

    def _ext1(self, code: int) -> None:
        self._found.strange.append(f"fetch what this process has registered as extension {code}")
        self._push(Global(f"<extension {code}>"))

    _ext2 = _ext4 = _ext1

    def _call(self, function: object, arguments: object) -> None:
        made = Call(function, arguments)
        if isinstance(arguments, Tuple):
            for item in arguments.items:
                if isinstance(item, Container):  # a set or an ordered dictionary hashes what it is given
                    self._work += item.weight
        self._found.calls.append(made)
        self._push(made)

    def _reduce(self, _: object) -> None:
        arguments = self._popped()
        self._call(self._popped(), arguments)

    _newobj = _reduce

    def _newobj_ex(self, _: object) -> None:
        keywords, arguments = self._popped(), self._popped()
        self._call(self._popped(), tuple_of((arguments, keywords)))

    def _inst(self, argument: str) -> None:
        self._call(self._import(*_split(argument)), tuple_of(self._since_mark()))

    def _obj(self, _: object) -> None:
        function, *arguments = self._since_mark() or [UNKNOWN]
        self._call(function, tuple_of(arguments))

    def _build(self, _: object) -> None:
        """An object's `__setstate__`: the object was made by a call, and is judged by that."""
        state, target = self._popped(), self._stack[-1]
        if not isinstance(target, Call):
            self._found.strange.append("set up an object that it has not made")
        del state

    def _binpersid(self, _: object) -> None:
        self._persistent(self._popped())

    def _persid(self, argument: str) -> None:
        self._persistent(argument)

    def _persistent(self, identity: object) -> None:
        storage = _storage(identity)
        if storage is None:
            self._found.strange.append("ask its loader for something that is no storage")
            # ("module", class, file, source) is how the older container keeps the class of a whole model
            items = identity.items if isinstance(identity, Tuple) else ()
            self._push(items[1] if len(items) > 1 and items[0] == "module" else UNKNOWN)
            return
        known = self._found.storages.get(storage.key)
        if known is None or known.size < storage.size:
            self._found.storages[storage.key] = storage
        self._push(storage)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENT = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    )
)
_CONTAINERS = frozenset(("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"))


def _split(argument: str) -> tuple[str, str]:
    """A module and a name, which `pickletools` gives with a space between them."""
    module, _, name = argument.partition(" ")
    return module, name


def _storage(identity: object) -> Storage | None:
    """Read torch's persistent id: ("storage", class, key, device, number of elements[, a view of another])."""
    if not isinstance(identity, Tuple) or len(identity.items) not in (5, 6):
        return None
    kind, cls, key, _, numel, *view = identity.items
    if kind != "storage" or not isinstance(cls, Global) or cls.name not in STORAGE_BYTES:
        return None
    if not isinstance(key, (str, int)) or not isinstance(numel, int) or not 0 <= numel <= _LARGEST:
        return None
    if view and not _is_view(view[0]):
        return None
    return Storage(str(key), numel, STORAGE_BYTES[cls.name])


def _is_view(view: object) -> bool:
    return view is None or (isinstance(view, Tuple) and len(view.items) == 3)
