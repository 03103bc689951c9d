"""Faults of files and folders: stale sets, lone shards, averages, code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pytest_genmodel.faults.editing import DENOISER, TO_Q, edit_json, edit_one, noise
from pytest_genmodel.faults.registry import fault

_INDEX = "diffusion_pytorch_model.safetensors.index.json"


@fault(
    "GM105",
    "coverage",
    location="diffusion_pytorch_model.bin",
    seen_in="https://github.com/huggingface/diffusers/issues/14769",
)
def stale_safetensors(folder: Path) -> None:
    """The result was saved as .bin beside an older .safetensors, which is what a loader reads."""
    import torch
    from safetensors.torch import load_file

    trained = {name: tensor + noise(tensor, 0.01) for name, tensor in load_file(folder / DENOISER).items()}
    torch.save(trained, folder / "transformer/diffusion_pytorch_model.bin")


@fault("GM103", "coverage", seen_in="https://github.com/huggingface/diffusers/issues/14719")
def stale_index(folder: Path) -> None:
    """A shard index was left behind when the shards were replaced by one file, and a loader follows it."""
    index = {"metadata": {}, "weight_map": {TO_Q: "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (folder / "transformer" / _INDEX).write_text(json.dumps(index), encoding="utf-8")


@fault("GM106", "coverage", component=None, location="best.safetensors", severity="warning")
def result_beside_the_components(folder: Path) -> None:
    """The trained weights lie beside the component's folder, under a name that nobody reads."""
    shutil.copy2(folder / DENOISER, folder / "best.safetensors")


@fault("GM109", needs_reference=True)
def lone_shard(folder: Path) -> Path:
    """One shard of several was copied and given by itself."""
    _shard(folder)
    return sorted((folder / "transformer").glob("*-of-*.safetensors"))[1]


@fault("GM111", location=_INDEX, severity="warning")
def index_of_another_save(folder: Path) -> None:
    """The index lacks a tensor that its shards hold."""
    _shard(folder)
    path = folder / "transformer" / _INDEX
    index = json.loads(path.read_text(encoding="utf-8"))
    del index["weight_map"][TO_Q]
    path.write_text(json.dumps(index), encoding="utf-8")


@fault(
    "GM110",
    component=None,
    location="transformer/my_model.py",
    severity="warning",
    seen_in="https://github.com/huggingface/diffusers/issues/13446",
)
def code_among_the_weights(folder: Path) -> None:
    """A Python file lies in a component's folder, where a careless loader would import it."""
    (folder / "transformer/my_model.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")


@fault(
    "GM104",
    "coverage",
    component="extra",
    location="model_index.json:extra",
    seen_in="https://github.com/huggingface/diffusers/issues/13446",
)
def class_of_its_own(folder: Path) -> None:
    """The model index names a class that comes with the checkpoint."""
    edit_json(folder / "model_index.json", extra=["my_module", "MyModel"])


@fault("GM310", severity="warning", seen_in="https://github.com/huggingface/diffusers/issues/1818")
def average_is_the_raw_weights(folder: Path) -> None:
    """The folder of the average holds the raw weights."""
    shutil.copytree(folder / "transformer", folder / "transformer_ema")


@fault("GM311", needs_reference=True, seen_in="https://github.com/huggingface/diffusers/issues/5783")
def average_never_moved(folder: Path) -> None:
    """The average was created and never updated, while the weights were trained."""
    shutil.copytree(folder / "transformer", folder / "transformer_ema")
    edit_one(folder / DENOISER, TO_Q, lambda tensor: tensor + noise(tensor, 0.01))


def _shard(folder: Path) -> None:
    """Save the denoiser anew, in several files."""
    from diffusers import CogVideoXTransformer3DModel

    from pytest_genmodel.pipelines.library import quiet

    with quiet():
        model = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer")
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        shutil.rmtree(folder / "transformer")
        model.save_pretrained(folder / "transformer", max_shard_size=f"{size // 3000}KB")
