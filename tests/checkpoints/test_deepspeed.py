"""DeepSpeed's ZeRO checkpoints: the master from every rank's partition, and nothing taken at face value."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from pytest_genmodel.checkpoints.checkpoint import Kind
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.formats import deepspeed_zero
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.sharded.zero import ZeroWeights
from pytest_genmodel.checkpoints.sharded.zero_files import find_files
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from tests.checkpoints.deepspeed_files import BUFFER, save_partition, write_zero
from tests.editing import TO_Q, TRANSFORMER

DATA = Path(__file__).parent / "data" / "zero"
SAMPLES = sorted(folder.name for folder in DATA.iterdir())
STEP = "global_step7"
MODEL = {
    "a.weight": torch.arange(15, dtype=torch.float32).reshape(3, 5) / 7,
    "a.bias": torch.tensor([1 / 3]),
    "b.weight": torch.arange(14, dtype=torch.float32).reshape(7, 2) / 9,
}


def weights_of(folder: Path) -> ZeroWeights:
    weights = open_checkpoint(folder, "run").components[""].weights
    assert isinstance(weights, ZeroWeights)
    return weights


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def refused(folder: Path) -> DamagedFileError:
    with pytest.raises(DamagedFileError) as caught:
        weights_of(folder)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def sample(tmp_path):
    """A copy of one of DeepSpeed's own checkpoints, to be damaged: `sample("zero3-bf16-2")` gives its step folder."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(DATA / name, tmp_path / name)) / "global_step1"

    return copy


# --- what DeepSpeed itself has written ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_the_weights_are_what_the_ranks_held(name):
    weights, expected = weights_of(DATA / name), load_file(DATA / name / "expected.safetensors")

    assert weights.tensors.keys() == expected.keys()
    assert [n for n, tensor in expected.items() if not same(weights.read(n), tensor)] == []
    assert weights.unexplained == ()
    assert "deepspeed" not in sys.modules


@pytest.mark.parametrize("name", SAMPLES)
def test_every_tensor_can_be_streamed_from_where_it_lies(name):
    weights = weights_of(DATA / name)

    for tensor in weights.tensors:
        content = b""
        for span in weights.spans(tensor):
            content += span.path.read_bytes()[span.begin : span.end]
        assert content == bytes(weights.read(tensor).reshape(-1).view(torch.uint8).numpy())


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.startswith("zero3")])
def test_the_weights_of_the_forward_pass_are_at_hand_and_are_the_master_rounded(name):
    weights = weights_of(DATA / name)

    assert weights.is_master
    assert weights.module.tensors.keys() == weights.tensors.keys()
    for tensor in weights.tensors:
        used = weights.module.read(tensor)
        assert torch.equal(used, weights.read(tensor).to(used.dtype))
    trained = {weights.module.tensors[n].dtype for n in weights.tensors if n not in ("table", "count")}
    assert trained == {"F32" if "fp32" in name else "BF16"}


def test_stage_three_has_no_weights_of_the_forward_pass():
    assert weights_of(DATA / "zero3-bf16-2").module is None


def test_a_tied_parameter_stands_under_both_names():
    weights = weights_of(DATA / "zero3-bf16-2")

    assert weights.spans("head.weight") == weights.spans("embed.weight")


@pytest.mark.parametrize("inner", ["", "global_step1"])
def test_the_folder_and_its_step_are_both_recognised(inner):
    checkpoint = open_checkpoint(DATA / "zero2-bf16-2" / inner, "run")

    assert (checkpoint.kind, list(checkpoint.components)) == (Kind.WEIGHTS, [""])
    assert checkpoint.written_by == "DeepSpeed (ZeRO)"
    assert (
        checkpoint.components[""].weights.metadata["weights"] == "fp32 master, from the partitions of 2 ranks"
    )


# --- any layout -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5),
    stage=st.sampled_from([1, 2, 3]),
    world=st.integers(1, 5),
)
def test_any_shapes_and_any_number_of_ranks_come_back(tmp_path_factory, shapes, stage, world):
    weights = {f"p{i}": torch.rand(shape) for i, shape in enumerate(shapes)}
    folder = write_zero(tmp_path_factory.mktemp("zero") / "run", weights, stage, world)

    read = weights_of(folder)

    assert read.tensors.keys() == weights.keys()
    assert all(same(read.read(name), tensor) for name, tensor in weights.items())


# --- against the reference ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(healthy):
    return load_file(healthy / TRANSFORMER)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("level", ["static", "quick"])
def test_the_same_weights_pass(trained, healthy, tmp_path, judged, stage, level):
    folder = write_zero(tmp_path / "run", trained, stage, world=3)

    for name in ("coverage", "same_weights"):
        verdict = judged(name, folder, healthy, level=level)
        assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


@pytest.mark.parametrize("stage", [2, 3])
def test_a_changed_tensor_is_named(trained, healthy, tmp_path, judged, stage):
    changed = trained | {TO_Q: trained[TO_Q] + 0.5}
    folder = write_zero(tmp_path / "run", changed, stage)

    verdict = judged("same_weights", folder, healthy, expect="identical")

    assert verdict.outcome is Outcome.FAILED
    assert {(finding.component, finding.location) for finding in verdict.findings} == {("transformer", TO_Q)}


def test_damage_is_a_finding(trained, healthy, tmp_path, judged):
    folder = write_zero(tmp_path / "run", trained, stage=3)
    (folder / STEP / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is Outcome.FAILED
    assert [finding.code for finding in verdict.findings] == ["GM103"]
    assert "rank 1" in verdict.findings[0].message


def test_frozen_parameters_keep_the_dtype_of_training(tmp_path):
    for stage in (2, 3):
        folder = write_zero(tmp_path / str(stage), MODEL, stage, frozen=("a.weight",))

        weights = weights_of(folder)

        assert weights.tensors["a.weight"].dtype == "BF16"
        assert torch.equal(weights.read("a.weight"), MODEL["a.weight"].bfloat16())
        assert torch.equal(weights.read("b.weight"), MODEL["b.weight"])


# --- files that are missing, left over, or of two saves -------------------------------------------------------------


@pytest.mark.parametrize("stage", [2, 3])
def test_partitions_that_are_missing_are_named_by_their_ranks(tmp_path, stage):
    folder = write_zero(tmp_path / "run", MODEL, stage, world=4)
    for rank in (1, 3):
        (folder / STEP / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").unlink()

    error = refused(folder)

    assert error.damage is Damage.MISSING_FILE
    assert error.path.name == "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"
    assert "ranks 1, 3 are not there (4 ranks wrote this checkpoint, 2 are here)" in error.what


def test_a_model_file_of_stage_three_that_is_missing_is_named(tmp_path):
    folder = write_zero(tmp_path / "run", MODEL, stage=3)
    (folder / STEP / "zero_pp_rank_0_mp_rank_00_model_states.pt").unlink()

    error = refused(folder)

    assert (error.damage, error.path.name) == (
        Damage.MISSING_FILE,
        "zero_pp_rank_0_mp_rank_00_model_states.pt",
    )


def test_partitions_alone_are_no_weights(tmp_path):
    folder = write_zero(tmp_path / "run", MODEL)
    (folder / STEP / "mp_rank_00_model_states.pt").unlink()

    assert refused(folder).damage is Damage.MISSING_FILE


def test_stage_three_without_partitions_holds_no_weights(tmp_path):
    folder = write_zero(tmp_path / "run", MODEL, stage=3)
    for file in folder.rglob("*optim_states.pt"):
        file.unlink()

    error = refused(folder)

    assert error.damage is Damage.MISSING_FILE
    assert "placeholders" in error.what


def test_placeholders_are_no_weights_whatever_the_file_is_called(tmp_path):
    folder = write_zero(tmp_path / "run", MODEL, stage=3, world=1)
    for file in folder.rglob("*optim_states.pt"):
        file.unlink()
    step = folder / STEP
    (step / "zero_pp_rank_0_mp_rank_00_model_states.pt").rename(step / "mp_rank_00_model_states.pt")

    error = refused(folder)

    assert error.damage is Damage.NOT_WEIGHTS
    assert "a placeholder of ZeRO-3" in error.what


def test_stage_two_without_partitions_has_the_weights_of_the_forward_pass(tmp_path):
    folder = write_zero(tmp_path / "run", MODEL)
    for file in folder.rglob("*optim_states.pt"):
        file.unlink()

    weights = weights_of(folder)

    assert not weights.is_master
    assert weights.metadata["weights"] == "the weights of the forward pass"
    assert all(same(weights.read(name), tensor.bfloat16()) for name, tensor in MODEL.items())


def test_a_rank_too_many_is_of_another_save(tmp_path):
    folder = write_zero(tmp_path / "run", MODEL, world=3)
    other = write_zero(tmp_path / "other", MODEL, world=2)
    file = "bf16_zero_pp_rank_2_mp_rank_00_optim_states.pt"
    shutil.copy(folder / STEP / file, other / STEP / file)

    error = refused(other)

    assert (error.damage, error.path.name) == (Damage.INDEX, file)
    assert "left over from another save" in error.what


@pytest.mark.parametrize("stage", [2, 3])
def test_partitions_of_another_model_do_not_fit(tmp_path, stage):
    folder = write_zero(tmp_path / "run", MODEL, stage)
    other = write_zero(tmp_path / "other", MODEL | {"more": torch.ones(9)}, stage)
    for file in other.rglob("*optim_states.pt"):
        shutil.copy(file, folder / STEP)

    error = refused(folder)

    assert error.damage is Damage.INDEX
    assert "two saves" in error.action


def test_two_kinds_of_partitions_are_two_saves(sample):
    step = sample("zero2-bf16-2")
    file = step / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    shutil.copy(file, step / file.name.removeprefix("bf16_"))

    assert "two saves" in refused(step).what


def test_a_model_file_of_each_kind_is_two_saves(sample):
    step = sample("zero3-bf16-2")
    shutil.copy(DATA / "zero2-bf16-2" / "global_step1" / "mp_rank_00_model_states.pt", step)

    assert "two saves" in refused(step).what


@pytest.mark.parametrize(
    "name",
    ["mp_rank_01_model_states.pt", "layer_03-model_states.pt", "expp_rank_0_mp_rank_00_optim_states.pt"],
)
def test_a_model_that_was_split_otherwise_is_refused_in_words(sample, name):
    step = sample("zero2-bf16-2")
    shutil.copy(step / "mp_rank_00_model_states.pt", step / name)

    with pytest.raises(BadInputError, match="split between ranks") as caught:
        weights_of(step)
    assert name in str(caught.value)


def test_latest_that_names_no_folder_is_damage(tmp_path):
    folder = write_zero(tmp_path / "run", MODEL)
    (folder / "latest").write_text("global_step9\n")

    assert deepspeed_zero.recognises(folder)
    with pytest.raises(DamagedFileError, match="global_step9") as caught:
        deepspeed_zero.read(folder, "run")
    assert (caught.value.path.name, caught.value.damage) == ("latest", Damage.MISSING_FILE)
    assert STEP in str(caught.value)


@pytest.mark.parametrize("text", ["../run", "/", "..", "", "a\0b", "x" * 300])
def test_latest_never_leads_out_of_the_folder(tmp_path, text):
    folder = write_zero(tmp_path / "run", MODEL)
    (folder / "latest").write_text(text)

    with pytest.raises((BadInputError, DamagedFileError)):
        open_checkpoint(folder, "run")


# --- files that are damaged or hostile ------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["*model_states.pt", "*rank_1*optim_states.pt"])
def test_a_file_that_is_cut_short_is_refused_at_every_length(sample, pattern):
    step = sample("zero2-bf16-2")
    [file] = step.glob(pattern)
    whole = file.read_bytes()
    for size in range(0, len(whole), len(whole) // 20):
        file.write_bytes(whole[:size])
        assert refused(step).path == file


class Evil:
    """Unpickled by pickle itself, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("where", ["model", "partition"])
def test_a_hostile_pickle_is_named_and_never_run(tmp_path, where):
    folder, marker = write_zero(tmp_path / "run", MODEL), tmp_path / "ran"
    if where == "partition":
        save_partition(folder / STEP, 0, {"partition_count": 2, "extra": Evil(marker)})
    else:
        torch.save({"module": MODEL, "extra": Evil(marker)}, folder / STEP / "mp_rank_00_model_states.pt")

    error = refused(folder)

    assert error.damage is Damage.PICKLE
    assert "mkdir" in error.what
    assert not marker.exists()


ODD = {
    "no dictionary": [1, 2],
    "no module": {"optimizer": 1},
    "shapes": {"module": MODEL, "param_shapes": [{"a.weight": ["x"]}]},
    "huge": {"module": {}, "param_shapes": [{"a.weight": [2**40, 2**40]}]},
    "lists": {"module": MODEL, "param_shapes": {"a": 1}, "shared_params": [1]},
    "sparse": {"module": {"a": torch.eye(3).to_sparse()}},
    "meta": {"module": {"a": torch.empty(2, device="meta")}},
    "bomb": {"module": {"a": torch.zeros(1).expand(2**38)}},
}


@pytest.mark.parametrize("what", ODD)
def test_a_model_file_that_says_nonsense_is_refused(tmp_path, what):
    folder = write_zero(tmp_path / "run", MODEL)
    torch.save(ODD[what], folder / STEP / "mp_rank_00_model_states.pt")

    assert refused(folder).path.name == "mp_rank_00_model_states.pt"


STATES = {
    "no count": {"single_partition_of_fp32_groups": [torch.ones(30)]},
    "count": {"single_partition_of_fp32_groups": [torch.ones(30)], "partition_count": [1, 2]},
    "no groups": {"partition_count": 1},
    "dtype": {"single_partition_of_fp32_groups": [torch.ones(15, dtype=torch.float64)], "partition_count": 1},
    "shape": {"single_partition_of_fp32_groups": [torch.ones(5, 6)], "partition_count": 1},
    "too many": {"single_partition_of_fp32_groups": [torch.ones(30)] * 2, "partition_count": 1},
    "short": {"single_partition_of_fp32_groups": [torch.ones(27)], "partition_count": 1},
    "paddings": {
        "single_partition_of_fp32_groups": [torch.ones(30)],
        "partition_count": 1,
        "param_alignment_paddings": [[1, "a", 2]],
    },
    "fewer paddings": {
        "single_partition_of_fp32_groups": [torch.ones(30)],
        "partition_count": 1,
        "param_alignment_paddings": [[0]],
    },
}


@pytest.mark.parametrize("what", STATES)
def test_a_partition_that_says_nonsense_is_refused(tmp_path, what):
    folder = write_zero(tmp_path / "run", MODEL, world=1)
    save_partition(folder / STEP, 0, dict(STATES[what]))

    assert refused(folder).path.name.endswith("states.pt")


def test_padding_behind_each_parameter_is_left_out(tmp_path):
    folder = write_zero(tmp_path / "run", MODEL, world=1)
    padded = [torch.cat([tensor.reshape(-1), torch.full((2,), 9.0)]) for tensor in MODEL.values()]
    state = {
        "single_partition_of_fp32_groups": [torch.cat(padded)],
        "partition_count": 1,
        "param_alignment_paddings": [[2, 2, 2]],
    }
    save_partition(folder / STEP, 0, state)

    weights = weights_of(folder)

    assert all(same(weights.read(name), tensor) for name, tensor in MODEL.items())


def test_a_transposed_weight_of_the_forward_pass_is_read_as_it_is_meant(tmp_path):
    turned = {"a.weight": torch.arange(12.0).reshape(3, 4).t(), BUFFER: torch.ones(2)}
    step = tmp_path / STEP
    step.mkdir()
    torch.save({"module": turned}, step / "mp_rank_00_model_states.pt")

    weights = ZeroWeights(find_files(step))

    assert weights.spans("a.weight") is None
    assert torch.equal(weights.read("a.weight"), turned["a.weight"])


def test_nothing_is_written_into_the_checkpoint(sample):
    step = sample("zero3-bf16-2")

    def state() -> dict[str, str]:
        files = (path for path in step.parent.rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = state()
    weights_of(step.parent).content_digest()

    assert state() == before
