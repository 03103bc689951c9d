"""What a LoRA's file says, as diffusers saves it: names, layers, and the configuration in its header."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_genmodel.checkpoints.safetensors_header import read_header
from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.editing import ADAPTER

METADATA = "lora_adapter_metadata"
"""The entry of the header in which diffusers keeps the PEFT configuration."""


def adapter_file(copy: Copy) -> Path:
    """The file that the folder holds; a fault that needs another one does not apply."""
    file = copy.folder / ADAPTER
    if not file.is_file():
        copy.does_not_apply(f"the adapter is no {ADAPTER} of diffusers'")
    return file


def adapter_names(copy: Copy) -> list[str]:
    """The stored names, in order."""
    return sorted(read_header(adapter_file(copy)).tensors)


def adapter_layer(copy: Copy, number: int = 0) -> str:
    """The stored name of a layer, without the factor's own end: `transformer.blocks.0.to_q`."""
    layers = sorted({name.partition(".lora_")[0] for name in adapter_names(copy) if ".lora_A." in name})
    if len(layers) <= number:
        copy.does_not_apply("the adapter has too few layers")
    return layers[number]


def adapter_component(copy: Copy) -> str:
    """The component that the adapter is for."""
    return adapter_layer(copy).partition(".")[0]


def adapter_config(copy: Copy) -> dict[str, object]:
    """The PEFT configuration in the header, by the component's keys (`transformer.r`)."""
    text = read_header(adapter_file(copy)).metadata.get(METADATA)
    if text is None:
        copy.does_not_apply("the adapter has no alpha in its header")
    stored: dict[str, object] = json.loads(text)
    return stored
