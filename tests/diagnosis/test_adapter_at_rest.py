"""What a LoRA's configuration promises, and how much its factors add to the layers that they are for."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.diagnosis.at_rest.adapter import untrained
from pytest_genmodel.diagnosis.at_rest.adapter_promises import kept_promises
from pytest_genmodel.diagnosis.at_rest.adapter_size import proportion, scale
from pytest_genmodel.diagnosis.at_rest.part import Part

LAYERS = [f"blocks.{i}.attn1.{kind}" for i in range(2) for kind in ("to_q", "to_k", "to_v")]
CONFIG = {"r": 4, "lora_alpha": 8, "target_modules": ["to_q", "to_k", "to_v"]}


@pytest.fixture
def found(tmp_path):
    """The findings of a check about an adapter: factors times a number, and keys of its configuration."""

    def examine(check, size: float = 1.0, only=LAYERS, zero: str = "", **config):
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator) * 0.05

        base = {f"{layer}.weight": draw(32, 32) for layer in LAYERS} | {"proj_out.weight": draw(8, 32)}
        save_file(base, tmp_path / "base.safetensors")
        factors = {}
        for layer in LAYERS:
            for half, shape in (("A", (4, 32)), ("B", (32, 4))):
                factor = draw(*shape) * size * (half != zero)
                if layer in only:
                    factors[f"transformer.{layer}.lora_{half}.weight"] = factor
        folder = tmp_path / "lora"
        folder.mkdir(exist_ok=True)
        header = {f"transformer.{key}": value for key, value in (CONFIG | config).items()}
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(header)}
        save_file(factors, folder / "pytorch_lora_weights.safetensors", metadata)
        adapter = open_checkpoint(folder, "lora").adapter
        component = Component("transformer", tmp_path, "", "", weights_file=tmp_path / "base.safetensors")
        part = Part("transformer", component, lambda *_: None, own_weights=adapter.weights)
        return [(f.code, f.severity.value, f.location) for f in check(part, adapter)]

    return examine


FILE = "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize(
    ("config", "severity", "key"),
    [
        ({"use_dora": True}, "error", "use_dora"),
        ({"lora_bias": True}, "error", "lora_bias"),
        ({"modules_to_save": ["proj_out"]}, "error", "modules_to_save"),
        ({"target_modules": ["to_q", "proj_out"]}, "warning", "target_modules"),
        ({"alpha_pattern": {"^no_such_layer": 100}}, "warning", "alpha_pattern"),
        ({"rank_pattern": {"to_out": 8}}, "warning", "rank_pattern"),
    ],
)
def test_promise_that_the_file_does_not_keep(found, config, severity, key):
    assert found(kept_promises, **config) == [("GM808", severity, f"{FILE}:{key}")]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_dora": False, "lora_bias": False, "modules_to_save": None},
        {"target_modules": ".*attn1.to_[qkv]"},
        {"target_modules": ["to_q", "to_k", "to_v", "add_k_proj"]},  # the model has no such layer
        {"alpha_pattern": {"to_q": 16}, "rank_pattern": {"attn1.to_k": 4}},
    ],
)
def test_promise_that_is_kept(found, config):
    assert found(kept_promises, **config) == []


def test_kind_of_layer_that_was_not_saved(found):
    only = [layer for layer in LAYERS if "to_v" not in layer]

    assert found(kept_promises, only=only) == [("GM808", "warning", f"{FILE}:target_modules")]


@pytest.mark.parametrize(
    ("size", "findings"),
    [(1.0, []), (0.01, []), (10.0, []), (40.0, [("GM809", "warning")]), (1e3, [("GM809", "error")])],
)
def test_update_beyond_all_proportion(found, size, findings):
    assert [(code, severity) for code, severity, _ in found(proportion, size)] == findings


def test_update_that_no_number_holds(found):
    assert [code for code, *_ in found(proportion, 1e-4)] == ["GM809"]


@pytest.mark.parametrize(
    ("config", "codes"),
    [
        ({}, []),
        ({"lora_alpha": 16}, []),
        ({"lora_alpha": 4 * 64}, []),
        ({"lora_alpha": 400}, ["GM809"]),
        ({"lora_alpha": -4}, ["GM809"]),
        ({"lora_alpha": 8, "alpha_pattern": {"to_q": 1000}}, ["GM809"]),
        ({"lora_alpha": 4 * 64, "use_rslora": True}, []),
        ({"lora_alpha": 400, "use_rslora": True}, ["GM809"]),
    ],
)
def test_alpha_that_no_trainer_writes(found, config, codes):
    assert found(scale, **config) == [(code, "warning", f"{FILE}:lora_alpha") for code in codes]


@pytest.mark.parametrize(("half", "codes"), [("A", ["GM802"]), ("B", ["GM802"]), ("", [])])
def test_factors_of_one_half_are_zero(found, half, codes):
    assert [code for code, *_ in found(untrained, zero=half)] == codes
    assert found(proportion, zero=half) == []
