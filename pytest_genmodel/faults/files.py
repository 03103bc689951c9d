"""Faults of files and folders: damaged, stale, missing, averages, code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pytest_genmodel.faults.copy import Copy, clone
from pytest_genmodel.faults.drift import noise
from pytest_genmodel.faults.editing import edit
from pytest_genmodel.faults.registry import Injected, Place, fault

_STALE = "https://github.com/huggingface/diffusers/issues/14719"
_BROKEN_OFF = "https://github.com/huggingface/diffusers/issues/11989"


@fault(
    "GM105",
    "coverage",
    layer="checkpoint-container",
    entries=("stale-safetensors-beats-new-bin",),
    seen_in="https://github.com/huggingface/diffusers/issues/14769",
)
def stale_safetensors(copy: Copy) -> Place:
    """The result was saved as .bin beside an older .safetensors, which is what a loader reads."""
    import torch

    component = copy.component(copy.denoiser)
    if len(component.file_sets[0].files) > 1 or component.library != "diffusers":
        copy.does_not_apply("the denoiser is stored in several files")
    trained = {name: entry.read() for name, entry in copy.tensors(copy.denoiser).items()}
    trained = {name: tensor + noise(tensor, 0.01) for name, tensor in trained.items()}
    torch.save(trained, component.folder / "diffusion_pytorch_model.bin")
    return Place(copy.denoiser, "diffusion_pytorch_model.bin")


@fault(
    "GM103", "coverage", layer="checkpoint-container", entries=("stale-index-after-unshard",), seen_in=_STALE
)
def stale_index(copy: Copy) -> Place:
    """A shard index was left behind when the shards were replaced by one file, and a loader follows it."""
    component = copy.component(copy.denoiser)
    if component.file_sets[0].index is not None or component.library != "diffusers":
        copy.does_not_apply("the denoiser is stored in several files")
    stem = component.file_sets[0].files[0].stem
    index = {"metadata": {}, "weight_map": {copy.matrix(): f"{stem}-00001-of-00002.safetensors"}}
    copy.write(component.folder / f"{stem}.safetensors.index.json", json.dumps(index))
    return Place(copy.denoiser)


@fault("GM106", "coverage", layer="checkpoint-container", severity="warning")
def result_beside_the_components(copy: Copy) -> Place:
    """The trained weights lie beside the component's folder, under a name that nobody reads."""
    clone(copy.first_file(copy.denoiser), copy.folder / "best.safetensors")
    return Place(None, "best.safetensors")


@fault("GM109", layer="checkpoint-container", needs_reference=True)
def lone_shard(copy: Copy) -> Injected:
    """One shard of several was copied and given by itself."""
    shard(copy)
    files = sorted(copy.path(copy.denoiser).glob("*-of-*.safetensors"))
    return Injected(files[1], Place(copy.denoiser))


@fault("GM111", layer="checkpoint-container", severity="warning", seen_in=_STALE)
def index_of_another_save(copy: Copy) -> Place:
    """The index lacks a tensor that its shards hold."""
    index = shard(copy)
    stored = json.loads(index.read_text(encoding="utf-8"))
    del stored["weight_map"][copy.matrix()]
    copy.write(index, json.dumps(stored))
    return Place(copy.denoiser, index.name)


@fault("GM103", "coverage", layer="checkpoint-container")
def shard_missing(copy: Copy) -> Place:
    """One of the shards was not copied."""
    shard(copy)
    files = sorted(copy.path(copy.denoiser).glob("*-of-*.safetensors"))
    copy.delete(files[1])
    return Place(copy.denoiser)


@fault("GM101", "coverage", layer="checkpoint-container")
def shards_of_two_saves(copy: Copy) -> Place:
    """The second shard holds a tensor of the first one once more, with other values: the last one read wins."""
    import torch
    from safetensors.torch import load_file, save_file

    shard(copy)
    first, second = sorted(copy.path(copy.denoiser).glob("*-of-*.safetensors"))[:2]
    tensors = load_file(second)
    for name, tensor in load_file(first).items():
        tensors.setdefault(name, torch.zeros_like(tensor))
    copy.delete(second)
    save_file(tensors, second, {"format": "pt"})
    return Place(copy.denoiser)


def shard(copy: Copy, name: str | None = None) -> Path:
    """Store a component, the denoiser if none is named, in two files; gives the index."""
    name = name or copy.denoiser
    component = copy.component(name)
    if (index := component.file_sets[0].index) is not None:
        return index
    [file] = component.file_sets[0].files
    entries = copy.tensors(name)
    parts = [file.with_name(f"{file.stem}-0000{number}-of-00002{file.suffix}") for number in (1, 2)]
    names = sorted(entries)
    homes = {entry: parts[number >= len(names) // 2] for number, entry in enumerate(names)}
    from pytest_genmodel.checkpoints.writing import write_safetensors
    from pytest_genmodel.faults.stored import weight_set

    for part in parts:
        write_safetensors(
            part, weight_set({n: replace(e, file=part) for n, e in entries.items() if homes[n] == part})
        )
    copy.delete(file)
    index = file.with_name(f"{file.name}.index.json")
    copy.write(index, json.dumps({"metadata": {}, "weight_map": {n: home.name for n, home in homes.items()}}))
    return index


@fault("GM101", "coverage", layer="checkpoint-container", seen_in=_BROKEN_OFF)
def file_cut_short(copy: Copy) -> Place:
    """The weights file ends early: the download was broken off."""
    file = copy.own(copy.first_file(copy.denoiser))
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)
    return Place(copy.denoiser, file.name)


@fault("GM101", "coverage", layer="checkpoint-container")
def empty_file(copy: Copy) -> Place:
    """The weights file of the VAE has no byte: the disk was full."""
    file = copy.first_file("vae")
    copy.write(file, b"")
    return Place("vae", file.name)


@fault("GM101", "coverage", layer="checkpoint-container")
def bytes_behind_the_end(copy: Copy) -> Place:
    """Bytes follow the last tensor of the file: two saves were written over each other."""
    file = copy.own(copy.first_file("text_encoder"))
    with file.open("ab") as stream:
        stream.write(bytes(16))
    return Place("text_encoder", file.name)


@fault("GM102", "coverage", layer="checkpoint-container")
def pointer_instead_of_weights(copy: Copy) -> Place:
    """The repository was cloned without git-lfs: the file holds three lines of text."""
    file = copy.first_file(copy.denoiser)
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize {file.stat().st_size}\n"
    copy.write(file, text)
    return Place(copy.denoiser, file.name)


@fault("GM103", "coverage", layer="checkpoint-container")
def weights_not_copied(copy: Copy) -> Place:
    """The VAE's folder holds its configuration and no weights."""
    for file in copy.component("vae").file_sets[0].files:
        copy.delete(file)
    return Place("vae")


@fault("GM103", "coverage", layer="checkpoint-container")
def component_not_copied(copy: Copy) -> Place:
    """The VAE's folder was not copied."""
    copy.delete(copy.path("vae"))
    return Place(None, "model_index.json")


@fault("GM101", "coverage", layer="config")
def configuration_is_no_json(copy: Copy) -> Place:
    """The configuration breaks off in the middle."""
    path = copy.component(copy.denoiser).config_path
    assert path is not None
    copy.write(path, path.read_text(encoding="utf-8")[:-30])
    return Place(copy.denoiser, path.name)


@fault("GM103", "coverage", layer="scheduler")
def scheduler_not_copied(copy: Copy) -> Place:
    """The scheduler's folder is empty."""
    folder = copy.path("scheduler")
    copy.delete(folder)
    folder.mkdir()
    return Place("scheduler")


@fault(
    "GM110",
    layer="security",
    severity="warning",
    seen_in="https://github.com/huggingface/diffusers/issues/13446",
)
def code_among_the_weights(copy: Copy) -> Place:
    """A Python file lies in a component's folder, where a careless loader would import it."""
    copy.write(copy.path(copy.denoiser) / "my_model.py", "raise SystemExit('imported')\n")
    return Place(None, f"{copy.denoiser}/my_model.py")


@fault(
    "GM104",
    "coverage",
    layer="security",
    entries=("custom-pipeline-bypasses-trust",),
    seen_in="https://github.com/huggingface/diffusers/issues/13446",
)
def class_of_its_own(copy: Copy) -> Place:
    """The model index names a class that comes with the checkpoint."""
    copy.set_index(extra=["my_module", "MyModel"])
    return Place("extra", "model_index.json:extra")


class _Marker:
    """Unpickling it would call a function that is no tensor's."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


@fault(
    "GM104",
    "coverage",
    layer="security",
    entries=("followyourcanvas-14-weights-only-false",),
    seen_in="https://github.com/mayuelala/FollowYourCanvas/pull/14",
)
def pickle_that_calls(copy: Copy) -> Place:
    """The weights are a pickle that calls a function when it is read."""
    import torch

    component = copy.component("vae")
    for file in component.file_sets[0].files:
        copy.delete(file)
    file = component.folder / "diffusion_pytorch_model.bin"
    torch.save({"weight": torch.zeros(2), "marker": _Marker()}, file)
    return Place("vae", file.name)


@fault(
    "GM310",
    layer="ema",
    severity="warning",
    entries=("convert-extract-ema-no-op", "lightning-checkpoint-saved-in-swapped-state"),
    seen_in="https://github.com/huggingface/diffusers/issues/1818",
)
def average_is_the_raw_weights(copy: Copy) -> Place:
    """The folder of the average holds the raw weights."""
    clone(copy.path(copy.denoiser), copy.folder / f"{copy.denoiser}_ema")
    return Place(copy.denoiser)


@fault(
    "GM311",
    layer="ema",
    needs_reference=True,
    entries=("ema-never-stepped",),
    seen_in="https://github.com/huggingface/diffusers/issues/5783",
)
def average_never_moved(copy: Copy) -> Place:
    """The average was created and never updated, while the weights were trained."""
    if copy.reference is None:
        copy.does_not_apply("it shows against a reference only")
    clone(copy.reference / copy.denoiser, copy.folder / f"{copy.denoiser}_ema")
    copy.change(copy.denoiser, copy.matrix(), lambda tensor: tensor + noise(tensor, 0.01))
    return Place(copy.denoiser)


@fault(
    "GM323",
    layer="ema",
    severity="warning",
    seen_in="https://github.com/ostris/ai-toolkit/issues/1034",
)
def average_beside_ran_away(copy: Copy) -> Place:
    """The average beside the raw weights was moved away from them at each step."""
    folder = clone(copy.path(copy.denoiser), copy.folder / f"{copy.denoiser}_ema")
    for file in sorted(folder.glob("*.safetensors")):
        edit(file, lambda tensors: {name: t + noise(t, 3.0) for name, t in tensors.items()})
    return Place(copy.denoiser, f"{folder.name}/")
