"""The folders that finetrainers writes, each given by itself."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from diffusers import CogVideoXTransformer3DModel, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.checkpoint import Kind
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TO_Q, TRANSFORMER


class Model:
    """finetrainers hands DCP an object whose `state_dict` joins the names of its models."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.weights = state


class Counters(Model):
    """`train_state`, `dataloader`: objects of the trainer's own."""

    def state_dict(self) -> dict[str, object]:
        return {"step": torch.tensor(7), "losses": [0.5]}


def step_folder(output: Path, weights: dict[str, torch.Tensor]) -> Path:
    folder = output / "finetrainers_step_200"
    state = {
        "model": Model(weights),
        "optimizer": {f"state.{name}.exp_avg": torch.zeros_like(t) for name, t in weights.items()},
        "lr_scheduler": Counters({}),
        "train_state": Counters({}),
        "dataloader": Counters({}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no process group is meant
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.fixture(scope="module")
def trained(healthy):
    return load_file(healthy / TRANSFORMER)


def test_the_state_of_a_step_is_the_model_in_it(trained, healthy, tmp_path, judged):
    folder = step_folder(tmp_path, trained)

    checkpoint = open_checkpoint(folder, "run")

    assert (checkpoint.kind, checkpoint.written_by) == (Kind.WEIGHTS, "finetrainers (DCP)")
    weights = checkpoint.components[""].weights
    assert (weights.tensors.keys(), weights.unexplained) == (trained.keys(), ())
    for name in ("coverage", "same_weights"):
        verdict = judged(name, folder, healthy)
        assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_a_change_in_the_state_of_a_step_is_named(trained, healthy, tmp_path, judged):
    folder = step_folder(tmp_path, trained | {TO_Q: trained[TO_Q] * 1.5})

    verdict = judged("same_weights", folder, healthy, expect="identical")

    assert {finding.location for finding in verdict.findings} == {TO_Q}


@pytest.fixture
def model_weights(healthy, tmp_path):
    """`model_weights/000200`: the transformer, and the scheduler that it was trained with."""
    folder = tmp_path / "model_weights" / "000200"
    transformer = CogVideoXTransformer3DModel.from_pretrained(healthy / "transformer")
    transformer.save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    return folder


def test_the_weights_of_a_full_training_are_components(model_weights, healthy, judged):
    checkpoint = open_checkpoint(model_weights, "run")

    assert checkpoint.kind is Kind.COMPONENTS
    assert set(checkpoint.components) == {"transformer", "scheduler"}
    assert judged("coverage", model_weights, healthy, level="static").outcome is Outcome.PASSED
    verdict = judged("same_weights", model_weights, healthy, level="static")
    assert verdict.outcome is Outcome.PASSED


def test_the_weights_of_a_lora_are_an_adapter(tmp_path):
    folder = tmp_path / "lora_weights" / "000200"
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    base = "transformer.transformer_blocks.0.attn1.to_q"
    factors = {f"{base}.lora_A.weight": torch.ones(4, 32), f"{base}.lora_B.weight": torch.ones(32, 4)}
    metadata = {"format": "pt", "lora_config": json.dumps({"r": 4, "lora_alpha": 8})}
    save_file(factors, folder / "pytorch_lora_weights.safetensors", metadata=metadata)

    checkpoint = open_checkpoint(folder, "run")

    assert checkpoint.kind is Kind.ADAPTER
    assert checkpoint.adapter.weights.tensors.keys() == factors.keys()


def test_a_step_without_one_of_its_files_is_a_finding(trained, healthy, tmp_path, judged):
    folder = step_folder(tmp_path, trained)
    shutil.move(folder / "__0_0.distcp", tmp_path / "elsewhere")

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is Outcome.FAILED
    assert [finding.code for finding in verdict.findings] == ["GM103"]
