"""The copy that a trainer works on, the originals that it must not reach, and weights that it has not written."""

from __future__ import annotations

import os
import shutil

import pytest

from pytest_genmodel.training.freshness import not_fresh
from pytest_genmodel.training.inputs import Inputs


@pytest.fixture
def original(tmp_path):
    folder = tmp_path / "model"
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "w.safetensors").write_bytes(b"weights")
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture
def inputs(original, tmp_path):
    return Inputs.copied(original, tmp_path / "inputs", "name")


def test_copy_has_the_name_and_nothing_is_touched_at_first(inputs):
    assert inputs.root.name == "name"
    assert (inputs.copy.touched(), inputs.reached(), inputs.reached(thorough=True)) == ((), (), ())


def test_links_are_copied_as_what_lies_behind_them(original, tmp_path):
    blob = tmp_path / "blob"
    blob.write_bytes(b"weights")
    (original / "linked").symlink_to(blob)

    inputs = Inputs.copied(original, tmp_path / "inputs", "name")

    assert not (inputs.root / "linked").is_symlink()
    blob.write_bytes(b"changed")  # the hub's cache, reached around the copy
    assert inputs.reached() == ("model/linked",)


@pytest.mark.parametrize("change", ["write", "add", "remove"])
def test_what_is_written_into_the_original_is_seen(inputs, original, change):
    file = original / "transformer" / ("new.bin" if change == "add" else "w.safetensors")
    file.unlink() if change == "remove" else file.write_bytes(b"others!")

    assert inputs.reached() == (f"model/transformer/{file.name}",)
    assert inputs.copy.touched() == ()


def test_new_time_alone_is_no_change(inputs, original):
    os.utime(original / "transformer" / "w.safetensors", (1, 1))

    assert inputs.reached() == ()


def test_write_that_puts_the_old_time_back_is_seen_by_reading(inputs, original):
    file = original / "transformer" / "w.safetensors"
    state = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"W")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))

    assert inputs.reached() == ()
    assert inputs.reached(thorough=True) == ("model/transformer/w.safetensors",)


def test_others_are_watched_too(original, tmp_path):
    other = tmp_path / "reference"
    other.mkdir()
    (other / "a").write_text("1")
    inputs = Inputs.copied(original, tmp_path / "inputs", "name", [other])

    (other / "a").write_text("22")

    assert inputs.reached() == ("reference/a",)


GIVEN = "transformer/w.safetensors"


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (lambda given, file: file.symlink_to(given), "a link to the model"),
        (lambda given, file: os.link(given, file), "another name of the model"),
        (lambda given, file: shutil.copy2(given, file), "with its time"),
        (lambda given, file: (file.write_bytes(b"older"), os.utime(file, (1, 1))), "older than the run"),
    ],
)
@pytest.mark.parametrize("saves", [None, {}])
def test_weights_that_were_put_there_are_none_of_the_run(inputs, tmp_path, put, said, saves):
    file = tmp_path / "out.safetensors"
    put(inputs.root / GIVEN, file)

    assert said in not_fresh([file], inputs.root, started=10**9 * 10, saves=saves)


def test_plain_copy_is_none_of_the_run_where_no_save_was_seen(inputs, tmp_path):
    file = tmp_path / "out.safetensors"
    shutil.copy(inputs.root / GIVEN, file)

    assert "not seen to save" in not_fresh([file], inputs.root, started=0, saves={})
    # Unwatched, or renamed after it was saved, nobody can tell it from weights that training left as they were.
    assert not_fresh([file], inputs.root, started=0, saves=None) is None
    assert not_fresh([file], inputs.root, started=0, saves={"/elsewhere/tmp.safetensors": True}) is None


def test_what_was_seen_to_be_saved_is_the_runs_own(inputs, tmp_path):
    file = tmp_path / "out.safetensors"
    shutil.copy2(inputs.root / GIVEN, file)

    assert not_fresh([file], inputs.root, started=0, saves={str(file.resolve()): False}) is None
