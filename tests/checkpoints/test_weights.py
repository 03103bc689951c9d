"""Weight sets: the same tensors from every container, one at a time, and nothing that a file only claims."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.weights import PickledWeights, SafetensorsWeights, open_weights, torch_dtype

MODEL = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a.bias": torch.tensor([1.0, -0.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.empty(0, 2),
}


def single(folder: Path) -> tuple[Path, ...]:
    save_file(MODEL, folder / "m.safetensors")
    return (folder / "m.safetensors",)


def sharded(folder: Path) -> tuple[Path, ...]:
    names = list(MODEL)
    for number, part in enumerate((names[2:], names[:2])):
        save_file({name: MODEL[name] for name in part}, folder / f"m-{number}.safetensors")
    return (folder / "m-0.safetensors", folder / "m-1.safetensors")


def zipped(folder: Path) -> tuple[Path, ...]:
    torch.save(MODEL, folder / "m.bin")
    return (folder / "m.bin",)


def legacy(folder: Path) -> tuple[Path, ...]:
    torch.save(MODEL, folder / "m.pt", _use_new_zipfile_serialization=False)
    return (folder / "m.pt",)


def sharded_pickle(folder: Path) -> tuple[Path, ...]:
    names = list(MODEL)
    for number, part in enumerate((names[:3], names[3:])):
        torch.save({name: MODEL[name] for name in part}, folder / f"m-{number}.bin")
    return (folder / "m-0.bin", folder / "m-1.bin")


def of_parameters(folder: Path) -> tuple[Path, ...]:
    tensors = {name: torch.nn.Parameter(t, t.is_floating_point()) for name, t in MODEL.items()}
    torch.save(tensors, folder / "m.pth")
    return (folder / "m.pth",)


def wrapped(folder: Path) -> tuple[Path, ...]:
    torch.save({"state_dict": MODEL, "epoch": 3, "lr": 0.1}, folder / "m.ckpt.pt")
    return (folder / "m.ckpt.pt",)


LAYOUTS = [single, sharded, zipped, legacy, sharded_pickle, of_parameters, wrapped]


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def weights(request, tmp_path):
    return open_weights(request.param(tmp_path))


def test_every_container_gives_the_same_tensors(weights):
    assert weights.tensors.keys() == MODEL.keys()
    for name, tensor in MODEL.items():
        stored, read = weights.tensors[name], weights.read(name)
        assert (torch_dtype(stored.dtype), stored.shape) == (tensor.dtype, tuple(tensor.shape))
        assert (read.dtype, read.shape, read.requires_grad) == (tensor.dtype, tensor.shape, False)
        assert torch.equal(
            read.reshape(-1).view(torch.uint8), tensor.reshape(-1).contiguous().view(torch.uint8)
        )


def test_the_digest_does_not_know_the_container(weights, tmp_path):
    (tmp_path / "other").mkdir()

    assert weights.content_digest() == open_weights(single(tmp_path / "other")).content_digest()


def test_every_tensor_knows_its_file(tmp_path):
    for layout in (sharded, sharded_pickle):
        files = layout(tmp_path)
        assert {stored.file for stored in open_weights(files).tensors.values()} == set(files)


def test_metadata_and_order_are_not_in_the_digest(tmp_path):
    plain = open_weights(single(tmp_path)).content_digest()
    save_file(dict(reversed(MODEL.items())), tmp_path / "r.safetensors", metadata={"step": "7"})
    turned = open_weights((tmp_path / "r.safetensors",))

    assert turned.metadata == {"step": "7"}
    assert turned.content_digest() == plain


def flip_a_bit(tensors):
    tensors["a.weight"].view(torch.int32)[2, 3] ^= 1


def negate_a_zero(tensors):
    tensors["a.bias"][1] = 0.0


def cast(tensors):
    tensors["a.bias"] = tensors["a.bias"].to(torch.float32)


def same_bytes_of_another_dtype(tensors):
    tensors["a.weight"] = tensors["a.weight"].view(torch.int32)


def reshape(tensors):
    tensors["a.weight"] = tensors["a.weight"].reshape(4, 3)


def reshape_the_empty_one(tensors):
    tensors["none"] = torch.empty(0, 3)


def rename(tensors):
    tensors["b.weight"] = tensors.pop("a.weight")


def drop(tensors):
    del tensors["count"]


def add(tensors):
    tensors["more"] = torch.empty(0)


def swap(tensors):
    tensors["count"], tensors["none"] = tensors["none"], tensors["count"]


CHANGES = [
    flip_a_bit,
    negate_a_zero,
    cast,
    same_bytes_of_another_dtype,
    reshape,
    reshape_the_empty_one,
    rename,
    drop,
    add,
    swap,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_digest_sees_every_change_of_content(tmp_path, change):
    tensors = {name: tensor.clone() for name, tensor in MODEL.items()}
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")

    before = open_weights(single(tmp_path)).content_digest()
    assert open_weights((tmp_path / "changed.safetensors",)).content_digest() != before


def test_the_digest_knows_dtype_and_shape_of_what_torch_cannot_hold(tmp_path):
    """Four-bit floats are read as bytes; two shapes of them have the same ones."""
    import json
    import struct

    digests = set()
    for number, (dtype, shape) in enumerate((("F4", [6]), ("F4", [2, 3]), ("F6_E2M3", [4]), ("U8", [3]))):
        header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, 3]}}).encode()
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + b"abc")
        weights = open_weights((path,))
        assert weights.read("a").tolist() == list(b"abc")
        digests.add(weights.content_digest())
    assert len(digests) == 4


def test_a_name_in_two_shards_is_refused(tmp_path):
    save_file(MODEL, tmp_path / "1.safetensors")
    save_file({"count": MODEL["count"]}, tmp_path / "2.safetensors")
    torch.save(MODEL, tmp_path / "1.bin")
    torch.save({"count": MODEL["count"]}, tmp_path / "2.bin")

    for ending in ("safetensors", "bin"):
        with pytest.raises(DamagedFileError, match="'count' stands in 1") as caught:
            open_weights((tmp_path / f"1.{ending}", tmp_path / f"2.{ending}"))
        assert caught.value.damage is Damage.INDEX
        assert caught.value.path == tmp_path / f"2.{ending}"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DamagedFileError) as caught:
        open_weights((*single(tmp_path), tmp_path / "gone.safetensors"))
    assert (caught.value.damage, caught.value.path.name) == (Damage.MISSING_FILE, "gone.safetensors")


def test_a_file_that_is_cut_while_it_is_open_is_an_error_with_its_place(tmp_path):
    """A memory map would end the whole process with a bus error here."""
    [path] = single(tmp_path)
    weights = open_weights((path,))
    os.truncate(path, path.stat().st_size - 40)

    with pytest.raises(DamagedFileError) as caught:
        weights.read("a.weight")
    assert caught.value.damage is Damage.TRUNCATED
    assert caught.value.offset == path.stat().st_size


def test_what_was_read_stays_when_the_file_changes(tmp_path):
    [path] = single(tmp_path)
    read = open_weights((path,)).read("a.weight")
    path.write_bytes(b"gone")

    assert torch.equal(read, MODEL["a.weight"])


# --- pickles --------------------------------------------------------------------------------------------------------


def refused(path: Path) -> DamagedFileError:
    with pytest.raises(DamagedFileError) as caught:
        open_weights((path,))
    assert caught.value.path == path
    assert "\n" not in str(caught.value)
    return caught.value


class Evil:
    """Unpickled by pickle itself, it touches a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("layout", ["zip", "legacy", "plain"])
def test_a_hostile_pickle_is_refused_and_never_run(tmp_path, layout):
    marker, path = tmp_path / "ran", tmp_path / "m.bin"
    content = {"a": torch.ones(2), "b": Evil(marker)}
    if layout == "plain":
        path.write_bytes(pickle.dumps({"b": Evil(marker)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")

    error = refused(path)

    assert error.damage is Damage.PICKLE
    assert "safetensors" in error.action
    assert not marker.exists()
    if layout == "plain":  # the trap is a real one
        pickle.loads(path.read_bytes())
        assert marker.exists()


def test_a_hostile_pickle_in_the_second_shard_is_not_run_either(tmp_path):
    marker = tmp_path / "ran"
    torch.save({"a": torch.ones(2)}, tmp_path / "1.bin")
    torch.save({"b": Evil(marker)}, tmp_path / "2.bin")

    with pytest.raises(DamagedFileError):
        open_weights((tmp_path / "1.bin", tmp_path / "2.bin"))
    assert not marker.exists()


def test_a_tensor_that_claims_more_than_its_storage_is_refused(tmp_path):
    """A file of a kilobyte that is a terabyte as soon as anyone makes it contiguous."""
    torch.save({"bomb": torch.zeros(1).expand(2**38)}, tmp_path / "m.bin")
    assert (tmp_path / "m.bin").stat().st_size < 4096

    error = refused(tmp_path / "m.bin")

    assert error.damage is Damage.PICKLE
    assert f"claims {2**40} bytes of a storage of 4" in error.what


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(3).to_sparse(), torch.empty(2, device="meta")],
    ids=["sparse", "meta"],
)
def test_a_tensor_without_plain_values_is_refused(tmp_path, tensor):
    torch.save({"odd": tensor}, tmp_path / "m.bin")

    assert "'odd' is no plain tensor" in refused(tmp_path / "m.bin").what


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3}, torch.ones(2), 5], ids=str)
def test_a_pickle_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "m.bin")

    assert "no named tensors" in refused(tmp_path / "m.bin").what


@pytest.mark.parametrize("key", ["state_dict", "module", "model"])
def test_a_wrapped_state_dict_is_looked_into_and_its_key_remembered(tmp_path, key):
    torch.save({key: MODEL, "optimizer": {"lr": 0.1}}, tmp_path / "m.pt")

    weights = open_weights((tmp_path / "m.pt",))

    assert isinstance(weights, PickledWeights)
    assert (weights.wrapper, weights.tensors.keys()) == (key, MODEL.keys())
    assert PickledWeights(zipped(tmp_path)).wrapper is None


@pytest.mark.parametrize("layout", [zipped, legacy])
def test_a_pickle_that_is_cut_short_is_refused_at_every_length(tmp_path, layout):
    [path] = layout(tmp_path)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 25)):
        path.write_bytes(whole[:size])
        error = refused(path)
        assert error.damage in ((Damage.EMPTY,) if size == 0 else (Damage.TRUNCATED, Damage.NOT_WEIGHTS))
        assert size < 4 or error.damage is not Damage.NOT_WEIGHTS


def test_an_old_torch_reads_no_pickle_at_all(tmp_path, monkeypatch):
    [path] = zipped(tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")

    assert "torch 2.5.1" in refused(path).what


def test_a_safetensors_file_never_reaches_the_unpickler(tmp_path, monkeypatch):
    files = single(tmp_path)
    monkeypatch.setattr(torch, "load", None)

    assert isinstance(open_weights(files), SafetensorsWeights)


@pytest.mark.parametrize("ending", ["ckpt", "bin", "sft"])
def test_safetensors_are_known_by_their_content_under_any_name(tmp_path, ending):
    save_file(MODEL, tmp_path / f"m.{ending}")

    assert isinstance(open_weights((tmp_path / f"m.{ending}",)), SafetensorsWeights)


def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path):
    with pytest.raises(DamagedFileError) as caught:
        open_weights((tmp_path / ("x" * 5000),))
    assert caught.value.damage is Damage.MISSING_FILE
