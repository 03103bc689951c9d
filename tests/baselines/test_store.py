"""The store: what goes in comes out, bytes are the same, damage is one line, a write is whole or nothing."""

from __future__ import annotations

import json
import os
import struct

import pytest
import torch
from safetensors.torch import load_file

from pytest_genmodel.baselines.store import BaselineError, Blob, Entry, Store
from pytest_genmodel.errors import BadInputError

VALUES = {
    "float32": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "bfloat16": torch.tensor([1.5, float("nan"), -0.0], dtype=torch.bfloat16),
    "int64": torch.tensor(7),
    "bool": torch.tensor([True, False]),
    "float8": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    "empty": torch.empty(0, 3),
}


def filled(path):
    store = Store(path)
    store.put(
        "reference/vae", Entry({"class": "AutoencoderKL", "scale": 0.7}, {"sketch": Blob.of(torch.ones(4))})
    )
    store.put("golden/tests/test_a.py::test_b[x#y]/latents", Entry(None, {"value": Blob.of(torch.arange(3))}))
    return store


def test_every_dtype_and_shape_comes_back_bit_by_bit(tmp_path):
    store = Store(tmp_path / "b.safetensors")
    store.put("golden/all", Entry({"n": 1}, {name: Blob.of(value) for name, value in VALUES.items()}))
    store.write()

    back = Store.open(store.path).get("golden/all")

    assert back is not None
    assert back.value == {"n": 1}
    for name, value in VALUES.items():
        tensor = back.tensors[name].tensor()
        assert (tensor.dtype, tensor.shape) == (value.dtype, value.shape)
        assert (
            torch.equal(tensor.view(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))
            or not value.numel()
        )


def test_equal_content_gives_equal_bytes_in_whatever_order_it_was_put(tmp_path):
    one, other = filled(tmp_path / "a"), Store(tmp_path / "b")
    for name in reversed(one.names()):
        other.put(name, one.get(name))

    assert one.to_bytes() == other.to_bytes()


def test_the_file_is_a_plain_safetensors_file(tmp_path):
    store = filled(tmp_path / "b.safetensors")
    size = store.write()

    tensors = load_file(store.path)

    assert size == store.path.stat().st_size
    assert tensors["reference/vae#sketch"].tolist() == [1.0] * 4


def test_put_remove_and_diff(tmp_path):
    before = filled(tmp_path / "b")
    after = before.copy()
    after.put("reference/vae", Entry({"class": "other"}))
    after.put("accepted/one", Entry("why"))
    after.remove("golden/tests/test_a.py::test_b[x#y]/latents")

    changes = {change.name: change.how for change in before.diff(after)}

    assert changes == {
        "accepted/one": "added",
        "golden/tests/test_a.py::test_b[x#y]/latents": "removed",
        "reference/vae": "changed",
    }
    assert before.diff(filled(tmp_path / "b")) == []
    assert after.names("accepted") == ("accepted/one",)


def test_a_file_that_is_not_there_is_an_empty_store_or_an_error(tmp_path):
    assert len(Store.open(tmp_path / "none")) == 0
    assert not (tmp_path / "none").exists()
    with pytest.raises(BaselineError, match="no such baseline"):
        Store.open(tmp_path / "none", must_exist=True)


@pytest.mark.parametrize(
    ("name", "entry", "told"),
    [
        ("vae", Entry(), "KIND/NAME"),
        ("other/vae", Entry(), "KIND/NAME"),
        ("golden/", Entry(), "KIND/NAME"),
        ("golden/a", Entry({"x": float("nan")}), "no plain JSON"),
        ("golden/a", Entry({"x": object()}), "no plain JSON"),
        ("golden/a", Entry(None, {"a#b": Blob("F32", (0,), b"")}), "name of an entry's tensor"),
    ],
)
def test_what_is_no_entry_is_refused(tmp_path, name, entry, told):
    with pytest.raises(BadInputError, match=told):
        Store(tmp_path / "b").put(name, entry)


def damaged(path, metadata, data=b"", tensors=None):
    header = json.dumps({"__metadata__": metadata, **(tensors or {})}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "no baseline of pytest-genmodel"),
        ({"genmodel_baseline": "99", "entries": "{}"}, "format 99"),
        ({"genmodel_baseline": "1"}, "list of entries is damaged"),
        ({"genmodel_baseline": "1", "entries": "[1]"}, "list of entries is damaged"),
        ({"genmodel_baseline": "1", "entries": '{"golden/a": {"value": 1}}'}, "list of entries is damaged"),
        (
            {"genmodel_baseline": "1", "entries": '{"golden/a": {"value": 1, "tensors": ["x"]}}'},
            "list of entries is damaged",
        ),
        (
            {"genmodel_baseline": "1", "entries": '{"a": {"value": 1, "tensors": []}}'},
            "list of entries is damaged",
        ),
        ({"genmodel_baseline": "1", "entries": "[" * 100_000}, "list of entries is damaged"),
    ],
)
def test_a_hostile_list_of_entries_is_one_line(tmp_path, metadata, told):
    with pytest.raises(BaselineError, match=told) as caught:
        Store.open(damaged(tmp_path / "b", metadata))

    assert "\n" not in str(caught.value)
    assert str(tmp_path / "b") in str(caught.value)


def test_damaged_files_are_one_line(tmp_path):
    whole = filled(tmp_path / "b")
    whole.write()
    content = whole.path.read_bytes()
    for bad in (
        b"",
        content[:5],
        content[:-1],
        content + b"x",
        b"PK\x03\x04" + content,
        b"{}",
        os.urandom(64),
    ):
        whole.path.write_bytes(bad)
        with pytest.raises(BaselineError) as caught:
            Store.open(whole.path)
        assert "\n" not in str(caught.value)


def test_tensors_of_no_entry_are_refused(tmp_path):
    path = damaged(
        tmp_path / "b",
        {"genmodel_baseline": "1", "entries": "{}"},
        b"\0" * 4,
        {"golden/a#x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    )
    with pytest.raises(BaselineError, match="belong to no entry"):
        Store.open(path)


def test_a_broken_off_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    store = filled(tmp_path / "b")
    store.write()
    old = store.path.read_bytes()
    store.put("accepted/one", Entry("why"))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write()

    assert store.path.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BaselineError, match="cannot be written"):
        filled(tmp_path / "file" / "b").write()
