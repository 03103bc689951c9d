"""An adapter's file with other values in it: the same names, dtypes, header and notes."""

from __future__ import annotations

import shutil
from pathlib import Path

from pytest_genmodel.checkpoints.alpha import PEFT_CONFIG, PEFT_FILES, SAT_CONFIG, scales
from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.keymaps.lora import bare_module, factor_of
from pytest_genmodel.checkpoints.weights import open_weights
from pytest_genmodel.transformations.adapters import random_up


def with_other_ups(adapter: Adapter, folder: Path, *, typical: float | None, seed: int = 0) -> Path:
    """Write a copy of `adapter` whose lora_B are random, or zero; give the file, or PEFT's folder.

    Whatever says alpha comes along: what is asked of the copy is asked of the original's layout.

    Args:
        adapter: the original, which is left alone.
        folder: where to write; made here.
        typical: the size of a typical weight (`typical_weight`); None for zeros.
        seed: decides the random values.

    Raises:
        DamagedFileError: the file, or what says its alpha, cannot be read.
    """
    import torch

    folder.mkdir(parents=True)
    stored = open_weights((adapter.file,))
    tensors = {name: stored.read(name).clone() for name in stored.tensors}
    downs = {}
    for name, tensor in tensors.items():
        factor = factor_of(name)
        if factor is not None and factor.role == "lora_A" and factor.leaf != ".bias":
            downs[factor.module] = tensor
    found = scales(Adapter(adapter.folder, adapter.file, stored, adapter.config))
    generator = torch.Generator("cpu").manual_seed(seed)
    for name in sorted(tensors):
        factor = factor_of(name)
        if factor is None or factor.role != "lora_B" or factor.leaf == ".bias":
            continue
        down, up = downs.get(factor.module), tensors[name]
        if typical is None or down is None:
            tensors[name] = torch.zeros_like(up)
        else:
            tensors[name] = random_up(up, down, found.applied(bare_module(factor.module)), typical, generator)
    target = folder / adapter.file.name
    if adapter.file.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(tensors, target, metadata=dict(stored.metadata))
    else:
        torch.save(tensors, target)
    notes = (adapter.folder / PEFT_CONFIG, adapter.folder.parent / SAT_CONFIG, adapter.folder / SAT_CONFIG)
    for note in notes:
        if note.is_file():
            shutil.copyfile(note, folder / note.name)
    return folder if adapter.file.name in PEFT_FILES else target
