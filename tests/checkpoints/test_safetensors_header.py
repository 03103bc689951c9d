"""The header parser: what safetensors writes is read, and what breaks the format is refused with its place."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.torch import save

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS, read_header
from pytest_genmodel.checkpoints.weights import open_weights

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """Write a file whose header is `header`: bytes as they stand, anything else as JSON."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def refused(path: Path) -> DamagedFileError:
    """The error that reading gives; its place is in the file."""
    with pytest.raises(DamagedFileError) as caught:
        read_header(path)
    assert caught.value.path == path
    assert caught.value.offset is None or 0 <= caught.value.offset <= path.stat().st_size
    assert "\n" not in str(caught.value)
    assert caught.value.action
    return caught.value


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


MODEL = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.bias": torch.ones(4, dtype=torch.bfloat16),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.empty(0, 5),
    "flag": torch.tensor([True, False, True]),
    "small": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
    "smaller": torch.tensor([1.0, -2.0]).to(torch.float8_e5m2),
    "complex": torch.tensor([1 + 2j], dtype=torch.complex64),
    "half": torch.tensor([0.5, float("nan")], dtype=torch.float16),
    "wide": torch.tensor([[[1.0]]], dtype=torch.float64),
    "byte": torch.arange(3, dtype=torch.uint8),
    "näme/../\x00": torch.tensor([1], dtype=torch.int32),
}


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt", "ünï": "code"}])
def test_what_safetensors_writes_is_read_as_its_own_reader_reads_it(path, metadata):
    path.write_bytes(save(MODEL, metadata))

    header = read_header(path)

    assert header.metadata == (metadata or {})
    whole = path.read_bytes()
    theirs = dict(deserialize(whole))
    assert header.tensors.keys() == theirs.keys() == MODEL.keys()
    for name, entry in header.tensors.items():
        assert (entry.dtype, list(entry.shape)) == (theirs[name]["dtype"], theirs[name]["shape"])
        assert whole[entry.begin : entry.end] == bytes(theirs[name]["data"])


def test_every_tensor_is_read_back_bit_for_bit(path):
    path.write_bytes(save(MODEL))
    weights = open_weights((path,))

    for name, tensor in MODEL.items():
        read = weights.read(name)
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert read.reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()


def test_a_file_without_tensors_is_read(path):
    path.write_bytes(save({}))

    assert read_header(path).tensors == {}


def test_trailing_spaces_pad_the_header(path):
    header = read_header(file_of(path, json.dumps({"a": F32}).encode() + b"   ", bytes(8)))

    assert header.tensors["a"].begin == path.stat().st_size - 8


def test_a_header_that_is_not_aligned_is_read(path):
    raw = json.dumps({"a": F32}).encode()
    raw += b" " * (len(raw) % 2 == 0)

    assert read_header(file_of(path, raw, bytes(8))).tensors["a"].shape == (2,)


def test_an_unknown_field_of_a_tensor_is_nobodys_concern(path):
    assert "a" in read_header(file_of(path, {"a": {**F32, "note": {"x": [1]}}}, bytes(8))).tensors


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x10280])
def test_a_header_whose_length_spells_the_start_of_a_pickle_is_still_a_header(path, length):
    raw = json.dumps({"a": F32}).encode()

    assert "a" in read_header(file_of(path, raw.ljust(length), bytes(8))).tensors


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_of_the_format_is_measured_by_its_bits(path, dtype):
    entry = {"dtype": dtype, "shape": [8], "data_offsets": [0, DTYPE_BITS[dtype]]}
    file_of(path, {"a": entry}, bytes(DTYPE_BITS[dtype]))

    assert read_header(path).tensors["a"].dtype == dtype
    assert dict(deserialize(path.read_bytes()))["a"]["dtype"] == dtype


BROKEN = {
    "leading space": (b' {"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "begin with"),
    "byte order mark": (b"\xef\xbb\xbf{}", "begin with"),
    "a list": (b"[]", "begin with"),
    "text after the object": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}x', "JSON"),
    "NUL padding": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}\0\0', "JSON"),
    "torn JSON": (b'{"a":{"dtype":"F32","sh', "JSON"),
    "single quotes": (b"{'a': 1}", "JSON"),
    "deep nesting": (b'{"a":' * 100_000, "JSON"),
    "deep lists": (b'{"a":' + b"[" * 100_000, "JSON"),
    "a number of 5000 digits": (b'{"a":' + b"9" * 5000 + b"}", "JSON"),
    "NaN": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":NaN}}', "JSON"),
    "bytes that are no UTF-8": (b'{"\xff\xfe":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "UTF-8"),
    "half a character": (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "Unicode"),
    "duplicate name": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}',
        "'a' stands twice",
    ),
    "duplicate field": (b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', "twice"),
    "duplicate metadata": (b'{"__metadata__":{},"__metadata__":{"a":"b"}}', "twice"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, "__metadata__"),
    "metadata that is a list": ({"__metadata__": ["a"]}, "__metadata__"),
    "metadata that is null": ({"__metadata__": None}, "__metadata__"),
    "metadata of half a character": (b'{"__metadata__":{"a":"\\udfff"}}', "__metadata__"),
    "hole at the start": ({"a": {**F32, "data_offsets": [4, 12]}}, "hole"),
    "hole between two": ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, "hole"),
    "overlap": ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, "overlaps"),
    "the same bytes twice": ({"a": F32, "b": F32}, "overlaps"),
    "too few bytes for the shape": ({"a": {**F32, "shape": [3]}}, "is not 8 bytes"),
    "too many bytes for the shape": ({"a": {**F32, "shape": [1]}}, "is not 8 bytes"),
    "offsets the wrong way round": ({"a": {**F32, "data_offsets": [8, 0]}}, "is not -8 bytes"),
    "half a byte": ({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, "is not 1 bytes"),
    "shape that overflows": ({"a": {**F32, "shape": [2**62, 4]}}, "is not 8 bytes"),
    "shape that overflows beside a zero": (
        {"a": {"dtype": "F32", "shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}},
        "is not 0 bytes",
    ),
    "unknown dtype": ({"a": {**F32, "dtype": "F128"}}, "unknown dtype 'F128'"),
    "dtype in small letters": ({"a": {**F32, "dtype": "f32"}}, "unknown dtype"),
    "dtype that is a list": ({"a": {**F32, "dtype": ["F32"]}}, "unknown dtype"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "lacks a proper"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, "lacks a proper"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, "lacks a proper"),
    "entry that is a list": ({"a": [1, 2]}, "lacks a proper"),
    "entry that is null": ({"a": None}, "lacks a proper"),
    "entry that is text": ({"a": "F32"}, "lacks a proper"),
    "negative shape": ({"a": {**F32, "shape": [-2, -1]}}, "lacks a proper"),
    "shape of floats": ({"a": {**F32, "shape": [2.0]}}, "lacks a proper"),
    "shape of booleans": ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, "lacks a proper"),
    "shape beyond 64 bits": ({"a": {**F32, "shape": [2**63, 0]}}, "lacks a proper"),
    "shape that is an object": ({"a": {"dtype": "U8", "shape": {}, "data_offsets": [0, 1]}}, "lacks"),
    "shape that is text": ({"a": {"dtype": "U8", "shape": "", "data_offsets": [0, 1]}}, "lacks a proper"),
    "shape that is null": ({"a": {**F32, "shape": None}}, "lacks a proper"),
    "negative offset": ({"a": {**F32, "data_offsets": [-8, 0]}}, "lacks a proper"),
    "offset that is a float": ({"a": {**F32, "data_offsets": [0, 8.0]}}, "lacks a proper"),
    "offset that is a boolean": (
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]}},
        "lacks a proper",
    ),
    "three offsets": ({"a": {**F32, "data_offsets": [0, 8, 8]}}, "lacks a proper"),
    "one offset": ({"a": {**F32, "data_offsets": [8]}}, "lacks a proper"),
    "offsets that are text": ({"a": {**F32, "data_offsets": "08"}}, "lacks a proper"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_header_that_breaks_the_format_is_refused(path, case):
    header, said = BROKEN[case]

    error = refused(file_of(path, header, bytes(8)))

    assert error.damage is Damage.HEADER
    assert said in error.what


SPEC_ONLY = ("leading space", "duplicate name", "duplicate field", "shape that overflows beside a zero")


@pytest.mark.parametrize("case", sorted(set(BROKEN) - {*SPEC_ONLY, "metadata that is null"}))
def test_what_is_refused_here_the_library_refuses_too(path, case):
    """But for what it lets two readers see differently, there is no file that only this parser refuses."""
    header, _ = BROKEN[case]
    data = {"overlap": 12, "hole between two": 20, "hole at the start": 12}.get(case, 8)
    file_of(path, header, bytes(data))

    refused(path)
    with pytest.raises(SafetensorError):
        deserialize(path.read_bytes())


def test_the_library_takes_the_last_of_two_names_which_is_why_they_are_refused(path):
    header, _ = BROKEN["duplicate name"]
    file_of(path, header, bytes(8))

    assert dict(deserialize(path.read_bytes()))["a"]["dtype"] == "I32"


@pytest.mark.parametrize("length", [100_000_001, 2**31, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_format_allows_is_refused_unread(path, length):
    error = refused(file_of(path, b"{}", length=length))

    assert (error.damage, error.offset) == (Damage.HEADER, 0)
    assert str(length) in error.what


def test_a_header_that_the_file_is_too_short_for_is_refused_unread(path):
    error = refused(file_of(path, b"{}", length=99_999_999))

    assert (error.damage, error.offset) == (Damage.TRUNCATED, 10)


def test_a_number_that_promises_more_than_the_file_holds_allocates_nothing(path):
    import tracemalloc

    entry = {"dtype": "U8", "shape": [2**50], "data_offsets": [0, 2**50]}
    file_of(path, {"a": entry}, bytes(8))
    tracemalloc.start()
    error = refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert error.damage is Damage.TRUNCATED
    assert str(2**50 - 8) in error.what
    assert peak < 1_000_000


def test_a_message_repeats_only_the_beginning_of_an_endless_name(path):
    error = refused(file_of(path, {"n" * 1_000_000: {**F32, "shape": [0] * 100_000}}, bytes(8)))

    assert len(str(error)) < 1000


def test_bytes_after_the_last_tensor_are_refused_with_their_place(path):
    error = refused(file_of(path, {"a": F32}, bytes(11)))

    assert error.damage is Damage.HEADER
    assert error.offset == path.stat().st_size - 3
    assert "3 bytes follow" in error.what


def test_truncation_is_named_wherever_it_falls(path):
    whole = save({"a": torch.ones(4), "b": torch.zeros(2)})
    data = len(whole) - 24
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        error = refused(path)
        assert error.damage is (Damage.EMPTY if size == 0 else Damage.TRUNCATED), size
        assert error.offset == size, size
        if size >= data:
            assert f"{len(whole) - size} are missing" in error.what


OTHERS = {
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "git-LFS",
        "git lfs pull",
    ),
    "web page": (b"\n <!DOCTYPE html><html><body>403</body></html>", "web page", "download"),
    "web page without a type": (b"<html>not found</html>", "web page", "download"),
    "pickle": (pickle.dumps({"a": list(range(50))}, protocol=4), "pickle", "save_file"),
    "pickle of protocol 2": (pickle.dumps({"a": list(range(50))}, protocol=2), "pickle", "save_file"),
    "short pickle": (pickle.dumps({}, protocol=2), "pickle", "save_file"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_kind_of_file_is_called_what_it_is(path, case):
    content, what, action = OTHERS[case]
    path.write_bytes(content)

    error = refused(path)

    assert error.damage is Damage.NOT_WEIGHTS
    assert what in error.what
    assert action in error.action


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_file_under_the_name_of_safetensors_is_called_a_pickle(path, legacy):
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=not legacy)

    assert "pickle" in refused(path).what


def test_a_zip_under_the_name_of_safetensors_is_no_weights(path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a", "b")
    path.write_bytes(content.getvalue())

    assert refused(path).damage is Damage.NOT_WEIGHTS


@pytest.mark.parametrize("content", [b"", b"\0", bytes(7), bytes(8), bytes(64)])
def test_zeros_and_stubs_are_refused(path, content):
    path.write_bytes(content)

    assert refused(path).damage in (Damage.EMPTY, Damage.TRUNCATED, Damage.HEADER)


# --- fuzz -----------------------------------------------------------------------------------------------------------

SEED_MODEL = {
    "layer.weight": torch.arange(4, dtype=torch.float32),
    "layer.bias": torch.ones(2, dtype=torch.bfloat16),
    "n": torch.tensor(1, dtype=torch.int64),
    "e": torch.empty(0, 3),
}
WHOLE = save(SEED_MODEL, {"format": "pt"})
quick = settings(
    max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


def agree(path: Path, content: bytes) -> None:
    """Ours and the library's reader see one thing in `content`, or ours refuses it in order."""
    path.write_bytes(content)
    try:
        header = read_header(path)
    except DamagedFileError:
        refused(path)
        return
    theirs = dict(deserialize(content))  # raises where the library refuses what ours has accepted
    assert {
        name: (e.dtype, list(e.shape), content[e.begin : e.end]) for name, e in header.tensors.items()
    } == {name: (t["dtype"], t["shape"], bytes(t["data"])) for name, t in theirs.items()}
    weights = open_weights((path,))
    for name, entry in header.tensors.items():
        assert weights.read(name).nbytes == entry.end - entry.begin


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


flips = st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6)


@quick
@given(flips)
def test_changed_bytes_never_give_two_readings(scratch, changes):
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    agree(scratch, bytes(content))


@quick
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, len(WHOLE)), st.binary(max_size=12))
def test_cuts_and_insertions_never_give_two_readings(scratch, begin, count, inserted):
    agree(scratch, WHOLE[:begin] + inserted + WHOLE[begin + count :])


@quick
@given(st.integers(0, len(WHOLE) - 1))
def test_a_shorter_file_is_always_refused(scratch, size):
    scratch.write_bytes(WHOLE[:size])
    with pytest.raises(DamagedFileError) as caught:
        read_header(scratch)
    assert caught.value.offset == size


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(0, 32)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["F32", "U8", "BF16", "F4"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BF16", "BOOL", "F4"]) | json_values,
        "shape": st.lists(st.integers(0, 4), max_size=3) | json_values,
        "data_offsets": st.tuples(st.integers(0, 8), st.integers(0, 16)) | json_values,
    }
)


@quick
@given(st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), entries | json_values, max_size=3))
def test_any_json_object_as_a_header_never_gives_two_readings(scratch, header):
    raw = json.dumps(header).encode()
    agree(scratch, struct.pack("<Q", len(raw)) + raw + bytes(16))
