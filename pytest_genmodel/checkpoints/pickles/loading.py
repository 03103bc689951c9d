"""A pickle that was looked through, loaded by torch's restricted unpickler, and by nothing else."""

from __future__ import annotations

import io
import math
import threading
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.other_kinds import RELOAD, refuse_other_kinds
from pytest_genmodel.checkpoints.pickles.allowed import CALLS, NAMES, NUMPY, allows_call, is_dangerous
from pytest_genmodel.checkpoints.pickles.archive import MAGIC, PICKLE, Record, read_archive
from pytest_genmodel.checkpoints.pickles.legacy import legacy_effects
from pytest_genmodel.checkpoints.pickles.machine import Effects, MalformedPickleError, effects
from pytest_genmodel.checkpoints.pickles.values import Call, Global, described
from pytest_genmodel.errors import first_line

_SAFETENSORS = "Convert the weights to safetensors where they were trained; no other unpickler is tried."
_LOCK = threading.RLock()
"""torch keeps its list of allowed names for the whole process."""


class Inert:
    """Stands in for an object of a library that is not imported: keeps what it was made of, and does nothing."""

    def __new__(cls, *arguments: Any) -> Inert:
        """Take whatever the object was made of."""
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = None
        return made

    arguments: tuple[Any, ...]
    state: Any

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


@dataclass(frozen=True)
class Loaded:
    """What a pickle held. `records` are the zip's (empty for the older container); `mapped_at` the address of its
    first byte in memory, None where no storage has bytes or the tensors lie elsewhere."""

    value: object
    records: Mapping[str, Record]
    mapped_at: int | None

    def holds(self, begin: int, end: int) -> bool:
        """Whether bytes `begin` to `end` of the file lie in one record."""
        at = bisect_right(self._begins, (begin, math.inf)) - 1
        return at >= 0 and end <= self._begins[at][1]

    @cached_property
    def _begins(self) -> list[tuple[int, int]]:
        return sorted((record.begin, record.end) for record in self.records.values() if record.size)


def load_pickle(path: Path, *, stubs: Mapping[str, type] = {}, numpy_state: bool = False) -> object:
    """Load a torch file: looked through first, then given to `torch.load(weights_only=True)`.

    Tensors of a zip are mapped into memory, not read; do not keep them while somebody else may write the file.

    Args:
        path: the file.
        stubs: classes of our own that take the place of others', by dotted name (see `Inert`).
        numpy_state: whether the state of numpy's random generators may stand in it; it comes as `Inert` objects.

    Raises:
        DamagedFileError: the file is cut short or is something else, torch is older than 2.10, the pickle would
            import or call something that is not needed for weights (named in the message; nothing was run), or a
            storage has fewer bytes than it claims.
    """
    return load(path, stubs=stubs, numpy_state=numpy_state).value


def load(path: Path, *, stubs: Mapping[str, type] = {}, numpy_state: bool = False) -> Loaded:
    """As `load_pickle`, with where the storages lie."""
    if numpy_state:
        stubs = {**dict.fromkeys(NUMPY, Inert), **stubs}
    with path.open("rb") as stream:
        start = stream.read(512)
    refuse_other_kinds(path, path.stat().st_size, start)
    _refuse_old_torch(path)
    records: Mapping[str, Record] = {}
    is_zip = start.startswith(MAGIC)
    try:
        if is_zip:
            records = read_archive(path)
            found = _zip_effects(path, records[PICKLE])
        else:
            found, is_torch = legacy_effects(path)
    except MalformedPickleError as error:
        raise _malformed(path, error, start) from None
    _refuse_foreign(path, found, stubs)
    if is_zip:
        _check_storages(path, found, records)
    elif not is_torch:
        raise DamagedFileError(
            path, Damage.NOT_WEIGHTS, "a plain pickle, which torch did not write", action=_SAFETENSORS
        )
    return _load(path, found, records, stubs)


def _malformed(path: Path, error: MalformedPickleError, start: bytes) -> DamagedFileError:
    if not start.startswith((MAGIC, b"\x80")):
        kind = "a tar, torch's oldest container, which is not read" if start[257:262] == b"ustar" else None
        return DamagedFileError(
            path, Damage.NOT_WEIGHTS, kind or "neither a torch file nor a pickle", action=_SAFETENSORS
        )
    if error.ended:
        return DamagedFileError(
            path, Damage.TRUNCATED, f"the file is cut short: {error}", action=RELOAD, offset=error.offset
        )
    return DamagedFileError(
        path, Damage.PICKLE, f"not a pickle of weights: {error}", action=_SAFETENSORS, offset=error.offset
    )


def _zip_effects(path: Path, record: Record) -> Effects:
    with path.open("rb") as stream:
        stream.seek(record.begin)
        program = io.BytesIO(stream.read(record.size))
    try:
        return effects(program)
    except MalformedPickleError as error:
        error.offset = record.begin + (error.offset or 0)
        raise


def _refuse_old_torch(path: Path) -> None:
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 10):
        raise DamagedFileError(
            path,
            Damage.PICKLE,
            f"torch pickles are not read under torch {torch.__version__}: weights_only=True is unsafe there",
            action="Convert the file to safetensors, or upgrade torch to 2.10 or later.",
        )


def _refuse_foreign(path: Path, found: Effects, stubs: Mapping[str, type]) -> None:
    """Refuse what is not on the list, the most dangerous first."""
    calls = [call for call in found.calls if not _may_call(call, stubs)]
    inner = {id(call.function) for call in calls}  # `f` of `f(x)(y)`: the whole is shown
    calls = [call for call in calls if id(call) not in inner]
    called = {_root(call) for call in calls}
    imports = [
        name
        for name in found.imports
        if name not in NAMES | CALLS and name not in stubs and name not in called
    ]
    deeds = [
        *(f"call {described(call)}" for call in calls if _root_is_dangerous(call)),
        *(f"import {described_name(name)}" for name in imports if is_dangerous(name)),
        *(f"call {described(call)}" for call in calls if not _root_is_dangerous(call)),
        *(f"import {described_name(name)}" for name in imports if not is_dangerous(name)),
        *found.strange,
    ]
    if not deeds:
        return
    shown = list(dict.fromkeys(deeds))
    more = f", and {len(shown) - 3} more" if len(shown) > 3 else ""
    dangerous = any(map(_root_is_dangerous, calls)) or any(map(is_dangerous, imports))
    raise DamagedFileError(
        path,
        Damage.PICKLE,
        f"not loaded: it would {', '.join(shown[:3])}{more}",
        action="Do not load this file with anything: it holds a program, not only weights. Ask for safetensors."
        if dangerous
        else "Save the state dict alone (not the model, its optimizer or its arguments), best as safetensors.",
    )


def described_name(name: str) -> str:
    """A dotted name in printable characters."""
    shown = name if len(name) <= 80 else f"{name[:80]}..."
    return shown if shown.isprintable() else repr(shown)


def _may_call(call: Call, stubs: Mapping[str, type]) -> bool:
    if not isinstance(call.function, Global):
        return False
    name = call.function.name
    return name in stubs or (name in CALLS and allows_call(name, call.arguments))


def _root_is_dangerous(call: Call) -> bool:
    """Whether the call, or the one that gave its function, is of something dangerous."""
    return is_dangerous(_root(call))


def _root(call: Call) -> str:
    function: object = call
    while isinstance(function, Call):
        function = function.function
    return function.name if isinstance(function, Global) else ""


def _check_storages(path: Path, found: Effects, records: Mapping[str, Record]) -> None:
    for storage in found.storages.values():
        record = records.get(f"data/{storage.key}")
        if record is None:
            raise DamagedFileError(
                path, Damage.PICKLE, f"storage {storage.key[:80]!r} is not in the file", action=_SAFETENSORS
            )
        if record.size < storage.size:
            raise DamagedFileError(
                path,
                Damage.PICKLE,
                f"storage {storage.key[:80]!r} claims {storage.size} bytes and has {record.size}",
                action="Do not load this file; ask for a safetensors export.",
                offset=record.begin,
            )
    order = records.get("byteorder")
    if order is not None:
        with path.open("rb") as stream:
            stream.seek(order.begin)
            if stream.read(min(order.size, 16)) != b"little":
                raise DamagedFileError(
                    path,
                    Damage.PICKLE,
                    "its numbers are stored big end first, which is not read here",
                    action=_SAFETENSORS,
                    offset=order.begin,
                )


def _load(path: Path, found: Effects, records: Mapping[str, Record], stubs: Mapping[str, type]) -> Loaded:
    import torch

    places: list[tuple[int, int]] = []

    def on_cpu(storage: Any, _: str) -> Any:
        places.append((storage.data_ptr(), storage.nbytes()))
        return storage

    try:
        with _only(stubs), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about pickle protocols; it reads them or refuses
            value = torch.load(path, map_location=on_cpu, weights_only=True, mmap=bool(records))
    except Exception as error:  # torch raises whatever the bytes provoke
        raise DamagedFileError(
            path,
            Damage.PICKLE,
            f"torch's restricted unpickler refused it: {first_line(error)[:300]}",
            action=_SAFETENSORS,
        ) from None
    return Loaded(value, records, _mapped_at(places, found, records))


def _mapped_at(places: list[tuple[int, int]], found: Effects, records: Mapping[str, Record]) -> int | None:
    """Where the file's first byte lies in memory, by what torch has mapped and the zip's own directory.

    torch asks for the storages in the order of the pickle; one whose bytes are elsewhere than all others' proves
    that it was done otherwise this time.
    """
    if not records:
        return None
    begins = [records[f"data/{key}"].begin for key, storage in found.storages.items() if storage.size]
    starts = [address for address, size in places if size]
    bases = {address - begin for address, begin in zip(starts, begins, strict=False)}
    return bases.pop() if len(bases) == 1 and len(starts) == len(begins) else None


@contextmanager
def _only(stubs: Mapping[str, type]) -> Iterator[None]:
    """Let torch's unpickler find `stubs` under their names, and nothing that was added elsewhere in the process."""
    import torch

    with _LOCK:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([(stub, name) for name, stub in stubs.items()])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)
