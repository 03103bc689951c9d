"""GGUF: recognised wherever it stands, described from its header, and refused in one sentence."""

from __future__ import annotations

import shutil
import struct

import pytest

from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.formats.gguf import described
from pytest_genmodel.checkpoints.opening import open_checkpoint
from tests.fuzz.seeds import CORPUS

VALID = CORPUS / "valid.gguf"
"""Written by the gguf package (0.19): two tensors, one of them quantised."""


def refusal(path) -> str:
    with pytest.raises(UnreadableCheckpointError) as caught:
        open_checkpoint(path, "spec")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors", "model.bin", "model"])
def test_a_file_is_known_by_its_magic_under_any_name(tmp_path, name):
    shutil.copy(VALID, tmp_path / name)

    message = refusal(tmp_path / name)

    assert message.startswith("spec: a GGUF file (version 3, 'wan', 2 tensors, 1 Q8_0, 1 F32).")
    assert "never bit-equal" in message
    assert "give the checkpoint that it was converted from" in message


def test_a_folder_whose_weights_are_gguf_is_one(tmp_path):
    shutil.copy(VALID, tmp_path / "wan-Q8_0.gguf")
    (tmp_path / "README.md").touch()

    assert "a GGUF file" in refusal(tmp_path)


def test_a_gguf_beside_a_pipeline_is_no_gguf_checkpoint(copy):
    shutil.copy(VALID, copy / "wan.gguf")

    checkpoint = open_checkpoint(copy, "spec")

    assert [path.name for path in checkpoint.unread] == ["wan.gguf"]
    (copy / "model_index.json").unlink()
    assert "transformer" in open_checkpoint(copy, "spec").components


@pytest.mark.parametrize("size", [4, 5, 8, 16, 24, 40, 100, 200])
def test_a_header_that_is_cut_short_is_described_as_far_as_it_goes(tmp_path, size):
    path = tmp_path / "x.gguf"
    path.write_bytes(VALID.read_bytes()[:size])

    assert "with a header that cannot be read to its end" in described(path)


def test_a_header_that_promises_the_world_is_not_believed(tmp_path):
    path = tmp_path / "x.gguf"
    for body in (
        struct.pack("<QQ", 2**63, 0),
        struct.pack("<QQQ", 1, 1, 2**63),
        struct.pack("<QQQ1sIIQ", 0, 1, 1, b"k", 9, 4, 2**62),
        struct.pack("<QQQ1sIIQIQ", 0, 1, 1, b"k", 9, 9, 2**40, 9, 2**40),
        struct.pack("<QQQ1sI", 0, 1, 1, b"k", 77),
    ):
        path.write_bytes(b"GGUF" + struct.pack("<I", 3) + body)
        assert "cannot be read to its end" in described(path)


def test_an_unknown_version_is_named_and_not_guessed_at(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 9, 3, 3))

    assert described(path) == "a GGUF file (version 9, with a header that cannot be read to its end)"
