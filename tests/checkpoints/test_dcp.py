"""Torch distributed checkpoints: put together from chunks, with an index that torch itself reads without a guard."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

from pytest_genmodel.checkpoints.checkpoint import Kind
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.sharded.dcp import DcpWeights
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TO_Q, TRANSFORMER

DATA = Path(__file__).parent / "data" / "dcp"
MODEL = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "a.bias": torch.tensor([1 / 3, -0.0, 5.0], dtype=torch.bfloat16),
    "half": torch.tensor([1.5, 2.5], dtype=torch.float16),
    "double": torch.tensor([[1 / 3]], dtype=torch.float64),
    "byte": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "mask": torch.tensor([True, False]),
    "eight": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
    "wide": torch.tensor([1, 2], dtype=torch.uint16),
    "count": torch.tensor(7),
    "none": torch.empty(0, 2),
    "turned": torch.arange(6.0).reshape(2, 3).t(),
    "part": torch.arange(20.0).reshape(4, 5)[1:3, 1:4],
}


def save(state: dict[str, Any], folder: Path) -> Path:
    """Write `state` with torch's own writer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no process group is meant
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    """A trainer's checkpoint with the model, an optimizer and some counters, to be damaged."""
    moments = {"a.weight": {"exp_avg": torch.zeros(3, 4)}}
    state = {"model": MODEL, "optimizer": {"state": moments, "lr": 0.1}, "train_state": {"step": 7}}
    return save(state, tmp_path / "run")


def weights_of(folder: Path) -> DcpWeights:
    weights = open_checkpoint(folder, "run").components[""].weights
    assert isinstance(weights, DcpWeights)
    return weights


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    wide = torch.uint8 if one.ndim else one.dtype
    one, other = one.contiguous(), other.contiguous()
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(
        one.view(wide), other.view(wide)
    )


def refused(folder: Path) -> DamagedFileError:
    with pytest.raises(DamagedFileError) as caught:
        read_all(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def read_all(folder: Path) -> None:
    weights = weights_of(folder)
    for name in weights.tensors:
        weights.read(name)


def edit(folder: Path, change: Callable[[Metadata], object]) -> None:
    """Rewrite `.metadata` with torch's own classes."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


# --- what torch has written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["rows", "grid"])
def test_the_chunks_of_several_ranks_are_put_together(layout):
    weights, expected = weights_of(DATA / layout), load_file(DATA / layout / "expected.safetensors")

    assert weights.tensors.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not same(weights.read(name), tensor)] == []
    assert "train_state.step" in weights.state
    assert weights.unexplained == ()


def test_every_dtype_and_shape_comes_back(run):
    weights = weights_of(run)

    assert weights.tensors.keys() == MODEL.keys()
    for name, tensor in MODEL.items():
        assert weights.tensors[name].shape == tuple(tensor.shape)
        assert same(weights.read(name), tensor), name


@pytest.mark.parametrize("folder", [DATA / "rows", None], ids=["rows", "own"])
def test_what_lies_in_row_major_order_can_be_streamed(folder, run):
    weights = weights_of(folder or run)

    for name in weights.tensors:
        spans = weights.spans(name)
        if spans is not None:
            content = b"".join(span.path.read_bytes()[span.begin : span.end] for span in spans)
            assert content == bytes(weights.read(name).reshape(-1).view(torch.uint8).numpy())
    apart = {name for name in weights.tensors if weights.spans(name) is None}
    assert apart <= {"turned", "part"}


def test_chunks_that_split_other_dimensions_are_read_and_not_streamed():
    assert weights_of(DATA / "grid").spans("embed.weight") is None


def test_a_trainers_state_is_listed_and_not_read(run):
    weights = weights_of(run)

    assert set(weights.state) == {"optimizer.state.a.weight.exp_avg", "optimizer.lr", "train_state.step"}
    assert weights.unexplained == ()


def test_a_tensor_of_no_known_place_is_unexplained(tmp_path):
    folder = save({"model": MODEL, "teacher": {"a": torch.ones(2)}}, tmp_path / "run")

    weights = weights_of(folder)

    assert weights.unexplained == ("teacher.a",)
    assert weights.tensors.keys() == MODEL.keys()


BARE = {"model.a": torch.ones(2), "lm_head": torch.ones(3)}


@pytest.mark.parametrize(
    ("state", "names"),
    [
        (MODEL, MODEL.keys()),
        (BARE, BARE.keys()),
        ({f"model.{name}": tensor for name, tensor in MODEL.items()}, MODEL.keys()),
        ({"transformer": MODEL, "optimizer": {"lr": 1}}, MODEL.keys()),
        ({"one": {"a": torch.ones(1)}, "two": {"a": torch.ones(1)}}, {"one.a", "two.a"}),
    ],
    ids=["bare", "a module called model", "joined", "under its own name", "two models"],
)
def test_the_model_is_found_wherever_the_trainer_keeps_it(tmp_path, state, names):
    assert weights_of(save(dict(state), tmp_path / "run")).tensors.keys() == set(names)


@pytest.mark.parametrize("state", [{"optimizer": {"a": torch.ones(2)}}, {"model": {"step": 3}}, {}])
def test_a_checkpoint_without_a_model_is_no_weights(tmp_path, state):
    assert refused(save(state, tmp_path / "run")).damage is Damage.NOT_WEIGHTS


def test_neither_torch_nor_its_classes_are_needed_to_know_what_is_there_and_where(run):
    code = (
        "import sys; from pathlib import Path\n"
        "from pytest_genmodel.checkpoints.opening import open_checkpoint\n"
        f"weights = open_checkpoint(Path({str(run)!r}), 'run').components[''].weights\n"
        "assert weights.spans('a.weight') and len(weights.tensors) == 12\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- against the reference ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(healthy):
    return load_file(healthy / TRANSFORMER)


@pytest.mark.parametrize("level", ["static", "quick"])
def test_the_same_weights_pass(trained, healthy, tmp_path, judged, level):
    folder = save({"model": trained, "optimizer": {"lr": 0.1}}, tmp_path / "run")

    assert open_checkpoint(folder, "run").kind is Kind.WEIGHTS
    for name in ("coverage", "same_weights"):
        verdict = judged(name, folder, healthy, level=level)
        assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_a_changed_tensor_is_named(trained, healthy, tmp_path, judged):
    folder = save({"model": trained | {TO_Q: trained[TO_Q] + 0.5}}, tmp_path / "run")

    verdict = judged("same_weights", folder, healthy, expect="identical")

    assert verdict.outcome is Outcome.FAILED
    assert {(finding.component, finding.location) for finding in verdict.findings} == {("transformer", TO_Q)}


def test_a_tensor_that_is_missing_is_named(trained, healthy, tmp_path, judged):
    folder = save({"model": {n: t for n, t in trained.items() if n != TO_Q}}, tmp_path / "run")

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is Outcome.FAILED
    assert any(TO_Q in f"{finding.location} {finding.message}" for finding in verdict.findings)


def test_damage_is_a_finding(trained, healthy, tmp_path, judged):
    folder = save({"model": trained}, tmp_path / "run")
    os.truncate(folder / "__0_0.distcp", 10_000)

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is Outcome.FAILED
    assert [finding.code for finding in verdict.findings] == ["GM101"]
    assert verdict.findings[0].location == "__0_0.distcp:10000"


# --- an index that lies ---------------------------------------------------------------------------------------------


def test_a_file_that_is_missing_is_named_with_its_rank(tmp_path):
    folder = Path(shutil.copytree(DATA / "rows", tmp_path / "run"))
    (folder / "__1_0.distcp").unlink()

    error = refused(folder)

    assert (error.damage, error.path.name) == (Damage.MISSING_FILE, "__1_0.distcp")
    assert "what rank 1 wrote" in error.what


@pytest.mark.parametrize("name", ["../run/__0_0.distcp", "/etc/hostname", "..", "", "a\\b", "a\0b"])
def test_a_place_outside_the_folder_is_refused(run, name):
    def move(metadata):
        metadata.storage_data = {
            key: replace(info, relative_path=name) for key, info in metadata.storage_data.items()
        }

    edit(run, move)

    error = refused(run)

    assert error.damage in (Damage.INDEX, Damage.MISSING_FILE)
    assert error.path.name == ".metadata" or name == ""


def shift(offset: int = 0, length: int = 0) -> Callable[[Metadata], None]:
    def change(metadata):
        for key, info in metadata.storage_data.items():
            if key.fqn == "model.a.weight":
                info.offset, info.length = info.offset + offset, info.length + length

    return change


@pytest.mark.parametrize(
    "change",
    [
        shift(offset=1 << 40),
        shift(length=1 << 40),
        shift(offset=-(1 << 20)),
        shift(offset=9),
        shift(length=-9),
    ],
)
def test_a_place_that_holds_no_tensor_is_refused(run, change):
    edit(run, change)

    assert refused(run).damage in (Damage.TRUNCATED, Damage.PICKLE)


def chunks(*found: tuple[list[int], list[int]], name: str = "model.a.weight") -> Callable[[Metadata], None]:
    def change(metadata):
        place = next(info for key, info in metadata.storage_data.items() if key.fqn == name)
        entry = metadata.state_dict_metadata[name]
        entry.chunks = [ChunkStorageMetadata(torch.Size(o), torch.Size(s)) for o, s in found]
        for offsets, _ in found:
            metadata.storage_data[MetadataIndex(name, offsets)] = place

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (chunks(([0, 0], [2, 4])), "hold 8 of its 12 elements"),
        (chunks(), "hold 0 of its 12 elements"),
        (chunks(([0, 0], [3, 4]), ([2, 0], [1, 4])), "two chunks hold what is at [2, 0]"),
        (chunks(([0, 0], [3, 2]), ([0, 1], [3, 2])), "two chunks hold what is at [0, 1]"),
        (chunks(([0, 0], [3, 4]), ([0, 0], [3, 4])), "two chunks hold what is at [0, 0]"),
        (chunks(([1, 0], [3, 4])), "lies outside its shape [3, 4]"),
        (chunks(([0], [12])), "lies outside its shape [3, 4]"),
        (chunks(([0, 0], [1 << 20, 1 << 20])), "lies outside its shape [3, 4]"),
        (chunks(([], []), ([], []), name="model.count"), "two chunks hold what is at []"),
    ],
)
def test_chunks_that_are_no_whole_tensor_are_refused(run, change, words):
    edit(run, change)

    error = refused(run)

    assert error.damage is Damage.INDEX
    assert words in error.what


def test_nothing_is_allocated_because_the_index_says_so(run):
    """A tensor of terabytes in two chunks of which neither is there."""

    def swell(metadata):
        chunks(([0, 0], [1 << 20, 1 << 19]), ([0, 1 << 19], [1 << 20, 1 << 19]))(metadata)
        metadata.state_dict_metadata["model.a.weight"].size = torch.Size([1 << 20, 1 << 20])

    edit(run, swell)

    assert "is F32 [3, 4], and .metadata says F32 [1048576, 524288]" in refused(run).what


@pytest.mark.parametrize("shape", [[0, 1 << 61, 8], [1 << 61, 8, 0]])
def test_an_empty_tensor_of_overflowing_shape_is_refused(run, shape):
    def swell(metadata):
        chunks(([0] * 3, shape), name="model.none")(metadata)
        metadata.state_dict_metadata["model.none"].size = torch.Size(shape)

    edit(run, swell)

    assert refused(run).path == run / ".metadata"


def test_a_chunk_without_a_place_is_refused(run):
    def drop(metadata):
        metadata.storage_data = {k: v for k, v in metadata.storage_data.items() if k.fqn != "model.half"}

    edit(run, drop)

    assert "says nowhere" in refused(run).what


def test_a_chunk_of_another_shape_or_dtype_than_the_index_says_is_refused(run):
    def swap(metadata):
        places = {key.fqn: info for key, info in metadata.storage_data.items()}
        for key in list(metadata.storage_data):
            if key.fqn == "model.a.weight":
                metadata.storage_data[key] = places["model.half"]

    edit(run, swap)

    error = refused(run)

    assert error.damage is Damage.INDEX
    assert "is F16 [2], and .metadata says F32 [3, 4]" in error.what


def test_a_packed_file_is_refused_in_words(run):
    def pack(metadata):
        for info in metadata.storage_data.values():
            info.transform_descriptors = ["zstd"]

    edit(run, pack)

    assert "packed or encrypted" in refused(run).what


ODD = {
    "nothing": lambda metadata: metadata.__dict__.clear(),
    "no places": lambda metadata: setattr(metadata, "storage_data", None),
    "places": lambda metadata: setattr(metadata, "storage_data", {"a": 1}),
    "no names": lambda metadata: setattr(metadata, "state_dict_metadata", {3: 4}),
    "entries": lambda metadata: setattr(metadata, "state_dict_metadata", {"model.a": 4}),
    "chunks": lambda metadata: setattr(metadata.state_dict_metadata["model.half"], "chunks", 3),
    "size": lambda metadata: setattr(metadata.state_dict_metadata["model.half"], "size", (2,)),
    "properties": lambda metadata: setattr(metadata.state_dict_metadata["model.half"], "properties", None),
    "place": lambda metadata: [setattr(i, "offset", "x") for i in metadata.storage_data.values()],
    "negative": lambda metadata: [setattr(i, "offset", -5) for i in metadata.storage_data.values()],
}


@pytest.mark.parametrize("what", ODD)
def test_an_index_that_says_nonsense_is_refused(run, what):
    edit(run, ODD[what])

    assert refused(run).path == run / ".metadata"


@pytest.mark.parametrize("planner", [None, {}, {"model.half": 3}, {"model.half": ()}, {"model.half": (1, 2)}])
def test_the_planners_own_notes_may_be_anything(run, planner):
    edit(run, lambda metadata: setattr(metadata, "planner_data", planner))

    assert weights_of(run).tensors


# --- hostile files --------------------------------------------------------------------------------------------------


class Evil:
    """Unpickled by pickle itself, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def test_a_hostile_index_is_named_and_never_run(run, tmp_path):
    marker = tmp_path / "ran"
    edit(run, lambda metadata: setattr(metadata, "planner_data", {"model.half": Evil(marker)}))

    error = refused(run)

    assert error.damage is Damage.PICKLE
    assert "posix.mkdir" in error.what or "nt.mkdir" in error.what
    assert not marker.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load({"model": {"half": torch.empty(2).half()}}, checkpoint_id=run, no_dist=True)
    assert marker.exists()  # the trap is a real one: torch falls into it


@pytest.mark.parametrize("function", [torch.ones, torch.load, dcp.save, print])
def test_nothing_but_the_classes_of_an_index_is_let_in_not_even_of_torch(run, function):
    edit(run, lambda metadata: setattr(metadata, "planner_data", {"a": function}))

    assert function.__name__ in refused(run).what


def test_a_hostile_tensor_is_named_and_never_run(run, tmp_path):
    marker = tmp_path / "ran"
    put(run, {"weight": Evil(marker)})

    error = refused(run)

    assert (error.damage, error.path.name) == (Damage.PICKLE, "evil")
    assert "mkdir" in error.what
    assert not marker.exists()


class Hooked:
    """A tensor in every respect, with a hook of the file's choice."""

    def __init__(self, marker: Path) -> None:
        self.hook = Evil(marker)

    def __reduce__(self):
        storage = torch.ones(3, 4).storage()
        return (torch._utils._rebuild_tensor_v2, (storage, 0, (3, 4), (4, 1), False, self.hook))


def test_a_tensor_that_carries_a_program_is_refused(run, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # typed storages are on their way out
        put(run, Hooked(tmp_path / "ran"))

    assert "it would import" in refused(run).what
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(3, 4),
        [torch.ones(3, 4)],
        {"a": torch.ones(3, 4)},
        5,
        torch.ones(3, 4).to_sparse(),
        torch.empty(3, 4, device="meta"),
        torch.ones(3, 4, dtype=torch.complex128),
    ],
    ids=["expanded", "list", "dict", "number", "sparse", "meta", "complex"],
)
def test_what_is_no_plain_tensor_is_refused(run, value):
    put(run, value)

    assert refused(run).path.name == "evil"


def test_a_parameter_is_a_tensor_too(run):
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    put(run, parameter)

    assert same(weights_of(run).read("a.weight"), parameter.detach())


def put(folder: Path, value: object) -> None:
    """Put something into the place of `a.weight`."""
    content = io.BytesIO()
    torch.save(value, content)
    (folder / "evil").write_bytes(b"before" + content.getvalue() + b"behind")

    def point(metadata):
        for key in list(metadata.storage_data):
            if key.fqn == "model.a.weight":
                metadata.storage_data[key] = _StorageInfo("evil", 6, len(content.getvalue()))

    edit(folder, point)


def test_an_index_that_is_cut_short_is_refused_at_every_length(run):
    whole = (run / ".metadata").read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        (run / ".metadata").write_bytes(whole[:size])
        assert refused(run).path.name == ".metadata"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_that_were_changed_are_refused_or_read_and_never_a_crash(run, data):
    file = data.draw(st.sampled_from([".metadata", "__0_0.distcp"]))
    whole = (run / file).read_bytes()
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (run / file).write_bytes(bytes(damaged))
    try:
        with contextlib.suppress(DamagedFileError):
            read_all(run)
    finally:
        (run / file).write_bytes(whole)


def test_everything_under_one_key_is_looked_through(tmp_path):
    """torch's own recipe wraps model and optimizer in a Stateful that is saved as "app"."""
    tensors = {"proj.weight": torch.arange(6.0).reshape(2, 3), "proj.bias": torch.ones(2)}
    folder = save({"app": {"model": tensors, "step": torch.tensor(3)}}, tmp_path / "run")

    weights = weights_of(folder)

    assert set(weights.tensors) == set(tensors)
    assert all(same(weights.read(name), tensor) for name, tensor in tensors.items())
