"""A training call of another process is read back with the scales at which its adapter acted."""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model

from pytest_genmodel.pipelines.recording import Call, lora_scales
from pytest_genmodel.training.calls import read_call, write_call


def test_scales_of_an_adapter_come_back_with_the_call(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=6, target_modules=["1"]), model)
    file = tmp_path / "1-0.safetensors"

    write_call(Call("Sequential", 0, {}, lora_scales(model)), file)

    assert read_call(file).scales == {"1": 3.0}


def test_model_without_an_adapter_has_no_scales():
    assert lora_scales(torch.nn.Linear(2, 2)) == {}
