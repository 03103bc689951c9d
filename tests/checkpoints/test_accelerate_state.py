"""What accelerate leaves behind: the model without a configuration, and beside it the trainer's state."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.checkpoint import Kind
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.diagnosis.finding import Severity
from pytest_genmodel.invariants.verdict import Outcome, Verdict
from tests.checkpoints.deepspeed_files import write_zero
from tests.editing import TO_Q, TRANSFORMER

POSITIONS = "patch_embed.pos_embedding"


@pytest.fixture(scope="module")
def trained(healthy):
    return load_file(healthy / TRANSFORMER)


@pytest.fixture
def transformer(healthy):
    return CogVideoXTransformer3DModel.from_pretrained(healthy / "transformer")


def save_state(folder: Path, *models: torch.nn.Module, safe: bool = True) -> Path:
    """A trainer's `accelerator.save_state`."""
    accelerator = Accelerator(cpu=True)
    for model in models:
        _, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer.optimizer)
        accelerator.prepare(scheduler)
    accelerator.save_state(str(folder), safe_serialization=safe)
    return folder


def save_dcp(folder: Path, state: dict) -> Path:
    """The call by which accelerate saves under FSDP."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no process group is meant
        dcp.save({"model": state}, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    return folder


def serious(verdict: Verdict) -> list[tuple[str, str | None]]:
    """Code and place of each finding that is more than a note (a live CogVideoX has its positions in float64)."""
    return [(f.code, f.location) for f in verdict.findings if f.severity is not Severity.NOTE]


def state_beside(folder: Path) -> Path:
    """The trainer's state, as `save_state` leaves it beside the models of FSDP and DeepSpeed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("scheduler.bin", "random_states_0.pkl"):
        (folder / name).write_bytes(b"not read")
    return folder


# --- every layout, with the same weights and with changed ones ------------------------------------------------------


def safetensors(folder, model):
    return save_state(folder, model)


def pickled(folder, model):
    return save_state(folder, model, safe=False)


def sharded(folder, model):
    Accelerator(cpu=True).save_model(model, str(folder), max_shard_size="60KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return state_beside(folder)


def sharded_pickles(folder, model):
    Accelerator(cpu=True).save_model(model, str(folder), max_shard_size="60KB", safe_serialization=False)
    assert (folder / "pytorch_model.bin.index.json").is_file()
    return folder


def fsdp_whole(folder, model):
    torch.save(model.state_dict(), state_beside(folder) / "pytorch_model_fsdp.bin")
    return folder


def fsdp_sharded(folder, model):
    save_dcp(state_beside(folder) / "pytorch_model_fsdp_0", model.state_dict())
    (folder / "optimizer_0").mkdir()
    return folder


def deepspeed(folder, model):
    return write_zero(state_beside(folder), model.state_dict(), stage=2, tag="pytorch_model")


def deepspeed_without_latest(folder, model):
    deepspeed(folder, model)
    (folder / "latest").unlink()
    return folder


LAYOUTS = [
    safetensors,
    pickled,
    sharded,
    sharded_pickles,
    fsdp_whole,
    fsdp_sharded,
    deepspeed,
    deepspeed_without_latest,
]


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.__name__)
def layout(request):
    return request.param


def test_the_same_weights_pass(layout, transformer, healthy, tmp_path, judged):
    folder = layout(tmp_path / "checkpoint-200", transformer)

    for name in ("coverage", "same_weights"):
        verdict = judged(name, folder, healthy, level="static")
        assert (verdict.outcome, serious(verdict)) == (Outcome.PASSED, [])


def test_a_changed_tensor_is_named(layout, transformer, healthy, tmp_path, judged):
    with torch.no_grad():
        transformer.get_parameter(TO_Q).add_(0.5)
    folder = layout(tmp_path / "checkpoint-200", transformer)

    verdict = judged("same_weights", folder, healthy, expect="identical")

    assert verdict.outcome is Outcome.FAILED
    assert {location for _, location in serious(verdict)} == {TO_Q}


def test_what_wrote_it_is_told(layout, transformer, tmp_path):
    checkpoint = open_checkpoint(layout(tmp_path / "run", transformer), "run")

    assert (checkpoint.kind, list(checkpoint.components)) == (Kind.WEIGHTS, [""])
    expected = {
        fsdp_whole: "accelerate (FSDP, gathered)",
        fsdp_sharded: "accelerate (FSDP, DCP)",
        deepspeed: "DeepSpeed (ZeRO)",
        deepspeed_without_latest: "accelerate (DeepSpeed ZeRO)",
    }
    assert checkpoint.written_by == expected.get(layout, "accelerate")
    assert checkpoint.unread == ()


@pytest.mark.parametrize("layout", [safetensors, sharded, fsdp_sharded], ids=lambda layout: layout.__name__)
def test_the_model_that_is_loaded_is_the_reference_too(layout, transformer, healthy, tmp_path, judged):
    folder = layout(tmp_path / "run", transformer)

    for name in ("coverage", "same_weights"):
        assert judged(name, folder, healthy, level="quick").outcome is Outcome.PASSED


def test_a_buffer_that_was_live_in_float64_stays_so_and_equals_its_float32_reference(
    transformer, healthy, tmp_path, judged
):
    transformer.patch_embed.pos_embedding = transformer.patch_embed.pos_embedding.double()
    folder = save_state(tmp_path / "run", transformer)

    weights = open_checkpoint(folder, "run").components[""].weights
    verdict = judged("same_weights", folder, healthy, level="static")

    assert weights.tensors[POSITIONS].dtype == "F64"
    assert verdict.outcome is Outcome.PASSED
    assert [(f.code, f.location) for f in verdict.findings] == [("GM213", POSITIONS)]


# --- several models, and files that are not what they seem ----------------------------------------------------------


def test_several_models_are_listed_and_one_must_be_named(transformer, healthy, tmp_path, judged):
    folder = save_state(tmp_path / "run", torch.nn.Linear(2, 3), transformer)

    with pytest.raises(UnreadableCheckpointError) as caught:
        open_checkpoint(folder, "run")

    assert "it holds 2 models" in str(caught.value)
    assert "model.safetensors: 2 tensors, such as 'bias'" in str(caught.value)
    assert "model_1.safetensors: 65 tensors, such as 'patch_embed.pos_embedding'" in str(caught.value)
    assert "name one, run/model.safetensors" in str(caught.value)
    assert judged("coverage", folder / "model_1.safetensors", healthy).outcome is Outcome.PASSED


def test_a_damaged_second_model_is_still_listed(transformer, tmp_path):
    folder = save_state(tmp_path / "run", transformer)
    (folder / "model_1.safetensors").write_bytes(b"")

    with pytest.raises(UnreadableCheckpointError, match=r"model_1\.safetensors"):
        open_checkpoint(folder, "run")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model_fsdp.bin", "model.fp16.safetensors"])
def test_the_set_that_accelerate_passes_over_is_a_finding(transformer, healthy, tmp_path, judged, name):
    folder = save_state(tmp_path / "run", transformer)
    other = {name: t + 1 for name, t in transformer.state_dict().items()}
    (save_file if name.endswith("safetensors") else torch.save)(other, folder / name)

    verdict = judged("coverage", folder, healthy)

    assert judged("same_weights", folder, healthy, level="static").outcome is Outcome.PASSED
    assert serious(verdict) == [("GM106", name)]


def test_pieces_that_each_rank_has_saved_by_itself_are_refused_in_words(tmp_path):
    folder = state_beside(tmp_path / "run")
    for rank in range(2):
        torch.save({"a": torch.ones(2)}, folder / f"pytorch_model_fsdp_rank{rank}.bin")

    with pytest.raises(UnreadableCheckpointError) as caught:
        open_checkpoint(folder, "run")

    assert "pytorch_model_fsdp_rank0.bin, pytorch_model_fsdp_rank1.bin" in str(caught.value)
    assert "SHARDED_STATE_DICT" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_missing_is_a_finding(transformer, healthy, tmp_path, judged):
    folder = sharded(tmp_path / "run", transformer)
    sorted(folder.glob("model-*"))[-1].unlink()

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is Outcome.FAILED
    assert [finding.code for finding in verdict.findings] == ["GM103"]


def test_shards_that_no_index_names_are_a_finding_and_never_half_a_model(
    transformer, healthy, tmp_path, judged
):
    folder = sharded(tmp_path / "run", transformer)
    (folder / "model.safetensors.index.json").unlink()

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is not Outcome.PASSED


def test_a_trainers_state_alone_is_no_checkpoint(transformer, tmp_path):
    folder = save_state(tmp_path / "run", transformer)
    (folder / "model.safetensors").unlink()

    with pytest.raises(UnreadableCheckpointError):
        open_checkpoint(folder, "run")


def test_a_folder_with_a_configuration_is_read_as_the_component_that_it_is(healthy, tmp_path):
    folder = Path(shutil.copytree(healthy / "text_encoder", tmp_path / "run"))
    (folder / "optimizer.bin").write_bytes(b"not read")

    assert open_checkpoint(folder, "run").kind is Kind.COMPONENTS


def test_a_lora_that_a_hook_has_saved_beside_the_state_is_the_lora(tmp_path):
    folder = state_beside(tmp_path / "run")
    factors = {f"transformer.a.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    save_file(factors, folder / "pytorch_lora_weights.safetensors")

    assert open_checkpoint(folder, "run").kind is Kind.ADAPTER
