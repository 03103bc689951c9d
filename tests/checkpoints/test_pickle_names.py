"""The texts in a pickle: found without building anything, whatever the file is."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_genmodel.checkpoints.pickle_names import texts_in

NAMES = {f"blocks.{n}.weight" for n in range(50)}


def write(file: Path, *, zipped: bool = True) -> Path:
    tensors = {name: torch.ones(2) for name in NAMES}
    torch.save({"module": tensors, "step": 3}, file, _use_new_zipfile_serialization=zipped)
    return file


@pytest.mark.parametrize("zipped", [True, False])
def test_the_names_in_a_torch_file_are_found(tmp_path, zipped):
    assert NAMES | {"module", "step"} <= texts_in(write(tmp_path / "x.pt", zipped=zipped))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(tmp_path, protocol):
    (tmp_path / "x.pt").write_bytes(pickle.dumps(dict.fromkeys(NAMES, 1), protocol=protocol))

    assert texts_in(tmp_path / "x.pt") >= NAMES


def test_nothing_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "x.pt").write_bytes(pickle.dumps({"name": Bomb()}))

    assert "name" in texts_in(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_packed_pickle_is_not_unpacked_without_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_genmodel.checkpoints.pickle_names._MOST_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(["first", "x" * 50_000, "last"], protocol=2))

    assert texts_in(tmp_path / "x.pt") == {"first"}


def test_a_zip_of_something_else_holds_none(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("else.txt", "hello")

    assert texts_in(tmp_path / "x.pt") == frozenset()
    assert texts_in(tmp_path / "gone.pt") == frozenset()
    assert texts_in(tmp_path) == frozenset()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[bool, bytes]:
    folder = tmp_path_factory.mktemp("pickles")
    return {zipped: write(folder / f"{zipped}.pt", zipped=zipped).read_bytes() for zipped in (True, False)}


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(zipped=st.booleans(), data=st.data())
def test_damage_never_raises(whole, tmp_path_factory, zipped, data):
    content = bytearray(whole[zipped])
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    file = tmp_path_factory.getbasetemp() / "damaged.pt"
    file.write_bytes(content)

    assert isinstance(texts_in(file), frozenset)
