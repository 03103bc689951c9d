"""The digest of weights at rest: of what they are, not of how they are stored; streamed, without torch."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints import stored_digest
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.mapped import MappedWeights, Rows
from pytest_genmodel.checkpoints.weight_set import WeightSet
from pytest_genmodel.checkpoints.weights import open_weights
from pytest_genmodel.tensors import combine, digest
from tests.tensors.strategies import EVERY, draw

DTYPES = [dtype for dtype in EVERY if dtype != torch.complex128]
TENSORS = {
    **{str(dtype).removeprefix("torch."): draw((3, 5), dtype, number) for number, dtype in enumerate(DTYPES)},
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3, dtype=torch.bfloat16),
    "large": draw((300, 1001), torch.float32, 7),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("digest")


@pytest.fixture(scope="module")
def single(folder):
    save_file(TENSORS, folder / "single.safetensors")
    return folder / "single.safetensors"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stored_digest, "_BLOCK", 1000)


class ReadOnly(WeightSet):
    """Weights that give no spans, as from a container that keeps them in pieces."""

    def __init__(self, source: WeightSet) -> None:
        super().__init__()
        self.files, self.metadata, self.tensors = source.files, {}, source.tensors
        self._source = source

    def read(self, name: str) -> torch.Tensor:
        return self._source.read(name)


def sharded(folder):
    names = list(TENSORS)[::-1]
    paths = tuple(folder / f"shard{n}.safetensors" for n in range(3))
    for number, path in enumerate(paths):
        save_file({name: TENSORS[name] for name in names[number::3]}, path, metadata={"format": "pt"})
    return open_weights(paths)


def pickled(folder):
    torch.save({name: TENSORS[name] for name in reversed(TENSORS)}, folder / "pickle.bin")
    return open_weights((folder / "pickle.bin",))


def joined(folder):
    """A trainer's file that keeps the large tensor in two halves under other names."""
    stored = {f"theirs.{name}": tensor for name, tensor in TENSORS.items() if name != "large"}
    stored["tail"], stored["head"] = TENSORS["large"][100:].clone(), TENSORS["large"][:100].clone()
    save_file(stored, folder / "joined.safetensors")
    targets = {name: Rows(f"theirs.{name}") for name in TENSORS if name != "large"}
    return MappedWeights(
        open_weights((folder / "joined.safetensors",)), {**targets, "large": [Rows("head"), Rows("tail")]}
    )


def test_streamed_digest_is_that_of_the_tensor(single):
    weights = open_weights((single,))

    assert {name: weights.digest(name) for name in TENSORS} == {
        name: digest(tensor) for name, tensor in TENSORS.items()
    }


@pytest.mark.parametrize("store", [sharded, pickled, joined])
def test_files_order_container_and_names_in_them_make_no_difference(single, folder, store):
    weights = store(folder)

    assert weights.content_digest() == open_weights((single,)).content_digest()


@pytest.mark.parametrize(
    "changed",
    [
        {"scalar": torch.tensor(2.5, dtype=torch.float64)},
        {"scalar": torch.tensor([2.5])},
        {"scalar": torch.tensor(2.25)},
        {"empty": torch.empty(3, 0, dtype=torch.bfloat16)},
        {"more": torch.ones(1)},
    ],
    ids=["dtype", "shape", "value", "empty shape", "name"],
)
def test_what_a_tensor_is_makes_a_difference(single, folder, changed):
    save_file({**TENSORS, **changed}, folder / "changed.safetensors")

    assert (
        open_weights((folder / "changed.safetensors",)).content_digest()
        != open_weights((single,)).content_digest()
    )


def test_needs_no_torch(single):
    code = """
import sys
from pathlib import Path
from pytest_genmodel.checkpoints.weight_set import WeightSet
from pytest_genmodel.checkpoints.weights import open_weights
print(open_weights((Path(sys.argv[1]),)).content_digest())
assert not {"torch", "numpy", "safetensors"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, single], check=True, stdout=subprocess.PIPE, text=True)

    assert done.stdout.strip() == combine((name, digest(tensor)) for name, tensor in TENSORS.items())


def test_file_cut_short_is_damaged(folder):
    path = folder / "cut.safetensors"
    save_file({"w": torch.ones(5000)}, path)
    weights = open_weights((path,))
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(DamagedFileError, match=r"cut\.safetensors at byte \d+"):
        weights.content_digest()


def test_packed_floats_are_known_by_dtype_shape_and_bytes(folder):
    found = []
    for dtype, shape in (("F4", [4, 4]), ("F4", [2, 8]), ("F6_E2M3", [4, 4]), ("F4", [4, 4])):
        size = 12 if dtype != "F4" else 8
        header = json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
        path = folder / "packed.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(range(size)))
        weights = open_weights((path,))
        found.append(weights.digest("w"))
        assert ReadOnly(weights).digest("w") == found[-1]

    assert len(set(found)) == 3
    assert found[0] == found[3]
