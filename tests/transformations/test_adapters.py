"""What is done to adapters: states told apart, random factors of a chosen size, files with other values in them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.products import products
from pytest_genmodel.transformations.adapter_files import with_other_ups
from pytest_genmodel.transformations.adapters import SHARE, random_up, state_of

TO_Q = "transformer_blocks.0.attn1.to_q"


@pytest.fixture
def file(tmp_path):
    """A LoRA of one layer, rank 2, alpha 6, as diffusers saves it."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"transformer.{TO_Q}.lora_A.weight": torch.randn(2, 8, generator=generator),
        f"transformer.{TO_Q}.lora_B.weight": torch.ones(12, 2),
    }
    path = tmp_path / "pytorch_lora_weights.safetensors"
    note = json.dumps({"transformer.r": 2, "transformer.lora_alpha": 6})
    save_file(tensors, path, metadata={"format": "pt", "lora_adapter_metadata": note})
    return path


def test_product_is_scale_times_b_times_a_in_float64(file):
    found = products(open_checkpoint(file, "lora").adapter).read(TO_Q)

    down = load_file(file)[f"transformer.{TO_Q}.lora_A.weight"]
    assert (found.scale, found.rank, found.unscaled.dtype) == (3.0, 2, torch.float64)
    assert torch.allclose(found.unscaled, down.double().sum(0).expand(12, 8))


@pytest.mark.parametrize("typical", [None, 0.5])
def test_copy_has_other_ups_and_nothing_else(file, tmp_path, typical):
    adapter = open_checkpoint(file, "lora").adapter

    copy = with_other_ups(adapter, tmp_path / "copy", typical=typical)

    before, after = load_file(file), load_file(copy)
    down, up = (f"transformer.{TO_Q}.lora_{half}.weight" for half in "AB")
    assert torch.equal(after[down], before[down])
    assert bool(after[up].any()) == (typical is not None)
    with safe_open(file, "pt") as ours, safe_open(copy, "pt") as theirs:
        assert theirs.metadata() == ours.metadata()
    assert torch.equal(load_file(file)[up], torch.ones(12, 2))


def test_random_up_makes_a_product_of_the_size_that_was_asked_for():
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(4, 256, generator=generator)

    up = random_up(torch.zeros(256, 4), down, 3.0, 0.2, generator)

    size = float((3.0 * up @ down).square().mean().sqrt())
    assert size == pytest.approx(SHARE * 0.2, rel=0.1)
    assert not random_up(up, torch.zeros(4, 256), 3.0, 0.2, generator).any()


def test_state_names_what_changed():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    before = state_of(model)
    assert state_of(model).differences(before) == []

    with torch.no_grad():
        model[0].bias.add_(1)
    model[1] = torch.nn.GELU()
    model.register_forward_hook(lambda *_: None)
    model.peft_config = {"a": 1}

    assert state_of(model).differences(before) == [
        "1: a GELU (ReLU before)",
        "0.bias: its values are others",
        "hooks: 1 are set (0 before)",
        "peft_config: left behind",
    ]
