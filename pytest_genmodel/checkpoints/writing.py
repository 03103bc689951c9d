"""A component's weights written anew as the library reads them, one tensor at a time."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.component import Component, library_name
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.weights import WeightSet

if TYPE_CHECKING:
    import torch


def written_for_library(component: Component) -> Component:
    """Give the component as its library loads it: weights that `source` reads are written into its folder first.

    The folder must be one of our own. Nothing is written twice.

    Raises:
        DamagedFileError: the weights cannot be read.
    """
    if component.source is None:
        return component
    file = component.folder / library_name(component.library, "safetensors")
    if not file.is_file():
        write_safetensors(file, component.weights)
    return replace(component, source=None)


def write_safetensors(file: Path, weights: WeightSet) -> None:
    """Write `weights` as one safetensors file; never more than one tensor is in memory.

    A broken-off write leaves nothing under the name `file`.
    """
    # The widest dtype first, as the format's own writer does: every tensor is aligned to its elements.
    tensors = sorted(weights.tensors.values(), key=lambda t: (-DTYPE_BITS[t.dtype], t.name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    unfinished = file.with_name(f".{file.name}.part")
    try:
        with unfinished.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for tensor in tensors:
                stream.write(_bytes(weights.read(tensor.name)))
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data
