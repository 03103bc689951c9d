"""Hypothesis strategies that damage files: byte by byte, and at the joints of their formats."""

from __future__ import annotations

import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

HOSTILE = (
    b"cposix\nsystem\n(S'echo'\ntR0",
    b"\x8c\x08builtins\x8c\x04eval\x93(S'1+1'\ntR0",
    b"(ios\ngetcwd\n0",
    b"\x82\x010",
    b"ctorch\nTensor\n(J\xff\xff\xff\x7ftR0",
    b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR0",
    b"(Vmodule\nctorch.nn\nLinear\nNNtQ0",
    b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI99999999999\ntQ0",
    b"(((((((((tttttttt" + b"\x85" * 200 + b"0",
    b"2" * 50 + b"0" * 50,
)
"""Bits of pickle programs, harmless in effect, that leave the stack as it was."""
WEIRD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**53, 2**63, 2**64, 10**400, 1.5, 1e308, float("nan")),
    *(
        "",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a\0b",
        "x" * 5000,
        "\ud800",
        "\x1b[2J",
        "F32",
        "I64",
        "model.bin",
    ),
    *([], {}, [[]], [0, 0], [2**62, 4], {"a": {}}, [None, "x"], ["os", "system"], ["diffusers", "Evil"]),
)


@dataclass(frozen=True)
class Edit:
    """One damage: `at` and `to` are places in the file, as shares of its length."""

    kind: str
    at: float
    to: float
    number: int
    data: bytes

    def of(self, content: bytes) -> bytes:
        """Give the damaged content."""
        return EDITS[self.kind](content, self)

    def place(self, count: int) -> int:
        """`at` as an index below `count` (0 where there is none)."""
        return min(int(self.at * count), max(count - 1, 0))

    def span(self, count: int) -> tuple[int, int]:
        """`at` and `to` as a stretch of `count`."""
        begin, end = sorted((int(self.at * count), int(self.to * count)))
        return begin, end


def _flip(content: bytes, edit: Edit) -> bytes:
    if not content:
        return content
    at = edit.place(len(content))
    return content[:at] + bytes([content[at] ^ (edit.number % 255 + 1)]) + content[at + 1 :]


def _cut(content: bytes, edit: Edit) -> bytes:
    return content[: edit.place(len(content))]


def _remove(content: bytes, edit: Edit) -> bytes:
    begin, end = edit.span(len(content))
    return content[:begin] + content[end:]


def _insert(content: bytes, edit: Edit) -> bytes:
    at = edit.place(len(content) + 1)
    return content[:at] + edit.data + content[at:]


def _overwrite(content: bytes, edit: Edit) -> bytes:
    at = edit.place(len(content))
    return content[:at] + edit.data + content[at + len(edit.data) :]


def _zero(content: bytes, edit: Edit) -> bytes:
    begin, end = edit.span(len(content))
    return content[:begin] + bytes(end - begin) + content[end:]


def _repeat(content: bytes, edit: Edit) -> bytes:
    begin, end = edit.span(len(content))
    return content[:end] + content[begin:end] * (edit.number % 3 + 1) + content[end:]


def _splice(content: bytes, edit: Edit) -> bytes:
    begin, end = edit.span(len(content))
    piece, target = content[begin:end], edit.number % (len(content) + 1)
    return content[:target] + piece + content[target + len(piece) :]


def _number(content: bytes, edit: Edit) -> bytes:
    """Write a whole number over what stands there, as formats keep lengths and offsets."""
    form = ("<B", "<H", "<I", "<Q", ">I")[edit.number % 5]
    size = struct.calcsize(form)
    at = edit.place(max(len(content) - size, 1))
    value = (edit.number // 5) % (1 << 8 * size)
    return content[:at] + struct.pack(form, value) + content[at + size :]


# --- JSON ---------------------------------------------------------------------------------------------------------


def _json(content: bytes, edit: Edit) -> bytes:
    try:
        value = json.loads(content)
    except ValueError:
        return _flip(content, edit)
    nodes = [*_nodes(value)]
    if not nodes:
        return json.dumps(_weird(edit)).encode()
    parent, key = nodes[edit.place(len(nodes))]
    match edit.number % 6:
        case 0 | 1:
            parent[key] = _weird(edit)
        case 2:
            del parent[key]
        case 3 if isinstance(parent, dict):
            parent[str(_weird(edit))] = parent.pop(key)
        case 4:
            nested = json.dumps(key if isinstance(parent, dict) else "x")
            deep = (b"[" if edit.to < 0.5 else b'{"a":') * int(edit.to * 3000)
            return json.dumps(value).encode().replace(nested.encode(), deep + nested.encode(), 1)
        case _ if isinstance(parent, dict):
            text = json.dumps(parent[key])
            mark = f"{json.dumps(key)}: {text}"
            return (
                json.dumps(value)
                .replace(mark, f"{json.dumps(key)}: {json.dumps(_weird(edit))}, {mark}", 1)
                .encode()
            )
    return json.dumps(value).encode()


def _weird(edit: Edit) -> Any:
    return WEIRD[edit.number // 6 % len(WEIRD)]


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        found = [(value, key) for key in value]
    elif isinstance(value, list):
        found = [(value, index) for index in range(len(value))]
    else:
        return []
    return found + [node for parent, key in found for node in _nodes(parent[key])]


def _header(content: bytes, edit: Edit) -> bytes:
    """The JSON of a safetensors header, its length put right (or not)."""
    length = int.from_bytes(content[:8], "little")
    raw = _json(content[8 : 8 + length], edit)
    stated = len(raw) if edit.to < 0.9 else edit.number % (1 << 64)
    return struct.pack("<Q", stated) + raw + content[8 + length :]


# --- pickles ------------------------------------------------------------------------------------------------------


def _opcodes(content: bytes, edit: Edit) -> bytes:
    """Opcodes of the pickle that the file is, or that the zip holds, swapped, dropped, doubled or put in."""
    if not content.startswith(b"PK"):
        return _of_pickle(content, edit)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            records = {info.filename: archive.read(info) for info in archive.infolist()}
    except Exception:  # an earlier edit has damaged the zip itself
        return _flip(content, edit)
    rebuilt = io.BytesIO()
    with zipfile.ZipFile(rebuilt, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, _of_pickle(record, edit) if name.endswith("data.pkl") else record)
    return rebuilt.getvalue()


def _of_pickle(content: bytes, edit: Edit) -> bytes:
    places: list[int] = []
    end = 0
    try:
        while end < len(content):
            places += [end + (place or 0) for _, _, place in pickletools.genops(content[end:])]
            end = places[-1] + 1
    except ValueError:
        pass
    if len(places) < 2:
        return _insert(content, edit)
    ops = [content[a:b] for a, b in zip(places, [*places[1:], end], strict=True)]
    rest, at = content[end:], edit.place(len(ops))
    other = min(int(edit.to * len(ops)), len(ops) - 1)
    match edit.number % 6:
        case 0:
            ops[at], ops[other] = ops[other], ops[at]
        case 1:
            del ops[at]
        case 2:
            ops.insert(at, ops[other])
        case 3:
            ops.insert(at, HOSTILE[edit.number // 6 % len(HOSTILE)])
        case 4:
            ops[at] = (
                b"J" + struct.pack("<i", edit.number % (1 << 31)) if ops[at][:1] in b"KMJ" else edit.data
            )
        case _:
            ops[at:other] = ops[at:other] * 2
    return b"".join(ops) + rest


def _directory(content: bytes, edit: Edit) -> bytes:
    """One field of a zip's record or of its directory, or one entry of the directory twice."""
    marks = [at for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for at in _all(content, mark)]
    if not marks:
        return _number(content, edit)
    at = marks[edit.place(len(marks))]
    if edit.number % 7 == 0:
        return content[:at] + content[at : at + 60] + content[at:]
    field = at + 4 + 2 * int(edit.to * 22)
    return content[:field] + struct.pack("<H", edit.number // 7 % (1 << 16)) + content[field + 2 :]


def _all(content: bytes, mark: bytes) -> list[int]:
    found, at = [], content.find(mark)
    while at >= 0:
        found.append(at)
        at = content.find(mark, at + 1)
    return found


BYTEWISE: Mapping[str, Callable[[bytes, Edit], bytes]] = {
    "flip": _flip, "cut": _cut, "remove": _remove, "insert": _insert, "overwrite": _overwrite, "zero": _zero,
    "repeat": _repeat, "splice": _splice, "number": _number,
}  # fmt: skip
STRUCTURAL: Mapping[str, Callable[[bytes, Edit], bytes]] = {
    "json": _json, "header": _header, "opcodes": _opcodes, "directory": _directory,
}  # fmt: skip
EDITS = {**BYTEWISE, **STRUCTURAL}


def _kinds(name: str, content: bytes) -> tuple[str, ...]:
    if name.endswith(".json"):
        return ("json",)
    if name.endswith(".safetensors"):
        return ("header",)
    if content.startswith(b"PK"):
        return ("opcodes", "directory")
    return ("opcodes",) if content.startswith(b"\x80") else ()


@st.composite
def edits(draw: st.DrawFn, files: Mapping[str, bytes]) -> list[tuple[str, Edit]]:
    """One to three damages of `files`, half of them at the joints of the format."""
    names = sorted(files)
    found = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(names))
        structural = _kinds(name, files[name])
        kinds = structural if structural and draw(st.booleans()) else tuple(BYTEWISE)
        edit = Edit(
            kind=draw(st.sampled_from(kinds)),
            at=draw(st.floats(0, 1)),
            to=draw(st.floats(0, 1)),
            number=draw(st.integers(0, 1 << 66)),
            data=draw(st.binary(max_size=24) | st.sampled_from(HOSTILE)),
        )
        found.append((name, edit))
    return found
