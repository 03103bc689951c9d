"""Faults of names and shapes: what is stored does not reach the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.registry import Place, fault
from pytest_genmodel.faults.stored import Entries, Entry
from pytest_genmodel.faults.values import ALIAS, embedding, position_table

if TYPE_CHECKING:
    import torch

_CLIP = "https://github.com/huggingface/diffusers/issues/13833"


@fault(
    "GM203",
    "coverage",
    layer="key-naming",
    entries=("cogvideo-374-zero-lr-noise", "cogvideo-113-lora-ckpt-nonlora-config"),
    seen_in="https://github.com/zai-org/CogVideo/issues/374",
)
def lora_still_attached(copy: Copy) -> Place:
    """The denoiser was saved while its LoRA was attached: the founding incident."""
    targets = copy.family.lora_targets
    first = copy.matrix()
    if not targets or not first.removesuffix(".weight").endswith(targets):
        copy.does_not_apply("the denoiser has no layer that its trainers give a LoRA")

    def wrap(entries: Entries) -> Mapping[str, Entry]:
        found: Entries = {}
        for name, entry in entries.items():
            layer, _, kind = name.rpartition(".")
            if not layer.endswith(targets):
                found[name] = entry
                continue
            found[f"{layer}.base_layer.{kind}"] = entry
            if kind == "weight" and len(entry.shape) == 2:
                rows, columns = entry.shape
                for half, shape in (("A", (4, columns)), ("B", (rows, 4))):
                    found[f"{layer}.lora_{half}.default.weight"] = _fresh(entry, shape, zero=half == "B")
        return found

    copy.rewrite(copy.denoiser, wrap)
    return Place(copy.denoiser, first)


def _fresh(entry: Entry, shape: tuple[int, ...], *, zero: bool) -> Entry:
    def make() -> torch.Tensor:
        import torch

        from pytest_genmodel.checkpoints.weights import torch_dtype

        made = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * (0.0 if zero else 0.1)
        return made.to(torch_dtype(entry.dtype))

    return replace(entry, shape=shape, read=make, touched=True)


@fault(
    "GM205",
    "coverage",
    layer="key-naming",
    entries=("musubi-compiled-submodule-prefix",),
    seen_in="https://github.com/kohya-ss/musubi-tuner/commit/e1157b3c167d6d2c1fdaa4b6468d216ddcd9f8ac",
)
def compiled_blocks(copy: Copy) -> Place:
    """Each block was compiled by itself: `_orig_mod.` stands in the middle of the names."""
    copy.rename(copy.denoiser, lambda name: re.sub(r"^(\w*blocks\.\d+\.)", r"\1_orig_mod.", name))
    return Place(copy.denoiser)


@fault(
    "GM205",
    "coverage",
    layer="key-naming",
    entries=("compile-wrapper-prefix",),
    seen_in="https://github.com/pytorch/torchtitan/issues/2622",
)
def compiled_model(copy: Copy) -> Place:
    """The compiled model was saved: each name begins with `_orig_mod.`."""
    copy.rename(copy.denoiser, lambda name: f"_orig_mod.{name}")
    return Place(copy.denoiser)


@fault("GM205", "coverage", layer="key-naming", seen_in="https://github.com/pytorch/torchtitan/issues/2622")
def data_parallel_prefix(copy: Copy) -> Place:
    """The text encoder was saved through DistributedDataParallel: each name begins with `module.`."""
    copy.rename("text_encoder", lambda name: f"module.{name}")
    return Place("text_encoder")


@fault("GM205", "coverage", layer="key-naming")
def original_repository_prefix(copy: Copy) -> Place:
    """The names are those of the original repository: each begins with `model.diffusion_model.`."""
    copy.rename(copy.denoiser, lambda name: f"model.diffusion_model.{name}")
    return Place(copy.denoiser)


@fault(
    "GM201",
    "coverage",
    layer="checkpoint-container",
    entries=("naifu-1-trainer-format-not-converted",),
    seen_in="https://github.com/Mikubill/naifu/issues/1",
)
def nested_state_dict(copy: Copy) -> Place:
    """The trainer's container was not converted: every tensor lies one level deeper."""
    copy.rename(copy.denoiser, lambda name: f"state_dict.model.{name}")
    return Place(copy.denoiser)


@fault(
    "GM201",
    "coverage",
    layer="version-skew",
    level="quick",
    entries=("clip-keys-flattened-transformers-56",),
    seen_in=_CLIP,
)
def prefix_of_another_library_version(copy: Copy) -> Place:
    """Another major version of the library wrote the names: each has one prefix more."""
    copy.rename("text_encoder", lambda name: f"text_model.{name}")
    return Place("text_encoder")


@fault(
    "GM201",
    "coverage",
    layer="distributed-save",
    entries=("fsdp-second-save-incomplete",),
    seen_in="https://github.com/huggingface/transformers/issues/31034",
)
def half_of_the_tensors(copy: Copy) -> Place:
    """The second save of a run wrote half of the tensors."""
    copy.rewrite(
        copy.denoiser,
        lambda entries: {name: entries[name] for name in sorted(entries)[: len(entries) // 2]},
    )
    return Place(copy.denoiser)


@fault(
    "GM201",
    "coverage",
    layer="checkpoint-container",
    entries=("diffusion-pipe-zimage-partial-save",),
    seen_in="https://github.com/tdrussell/diffusion-pipe/commit/9478a0750d993053ebbc381762f142d032d4d9c0",
)
def few_of_the_tensors(copy: Copy) -> Place:
    """The saver wrote only the tensors that carry a mark of its own: a few."""
    copy.rewrite(copy.denoiser, lambda entries: {name: entries[name] for name in sorted(entries)[::9]})
    return Place(copy.denoiser)


@fault(
    "GM201",
    "coverage",
    layer="checkpoint-container",
    entries=("missing-weight-left-on-meta",),
    seen_in="https://github.com/huggingface/diffusers/pull/12114",
)
def tensor_missing(copy: Copy) -> Place:
    """One matrix of the denoiser is in no file: it is left without memory, and runs all the same."""
    name = copy.sibling()
    copy.rewrite(copy.denoiser, lambda entries: {n: e for n, e in entries.items() if n != name})
    return Place(copy.denoiser, name)


@fault("GM201", "coverage", layer="checkpoint-container")
def tensor_of_the_vae_missing(copy: Copy) -> Place:
    """One tensor of the VAE is in no file; latents are right and frames are not."""
    name = next((n for n in sorted(copy.tensors("vae"), reverse=True) if n.endswith("weight")), None)
    if name is None:
        copy.does_not_apply("the VAE has no weights")
    copy.rewrite("vae", lambda entries: {n: e for n, e in entries.items() if n != name})
    return Place("vae", name)


@fault("GM201", "coverage", layer="text-encoder")
def half_of_the_text_encoder(copy: Copy) -> Place:
    """Half of the text encoder is in no file: transformers draws it anew at each load."""
    copy.rewrite(
        "text_encoder",
        lambda entries: {name: entries[name] for name in sorted(entries)[: len(entries) // 2]},
    )
    return Place("text_encoder")


@fault("GM201", "coverage", layer="key-naming")
def tensor_renamed(copy: Copy) -> Place:
    """One tensor has another name: the model misses it, and the file holds one too many."""
    name = copy.matrix()
    copy.rename(copy.denoiser, lambda n: f"{n}_renamed" if n == name else n)
    return Place(copy.denoiser, name)


@fault("GM202", "coverage", layer="key-naming")
def tensor_too_many(copy: Copy) -> Place:
    """The file holds a tensor that the model has no place for."""
    name = copy.matrix()
    copy.rewrite(
        copy.denoiser, lambda entries: entries | {"extra.weight": entries[name].changed(lambda t: t + 1)}
    )
    return Place(copy.denoiser, "extra.weight")


@fault(
    "GM201",
    "coverage",
    layer="positional-embedding",
    entries=("sd-scripts-pos-embed-not-saved",),
    seen_in="https://github.com/kohya-ss/sd-scripts/commit/6bee18db4fbf62ebd2a1da88a5851c48f2e06c54",
)
def position_table_not_saved(copy: Copy) -> Place:
    """The learned position table, a buffer, is in no file."""
    name = position_table(copy)
    copy.rewrite(copy.denoiser, lambda entries: {n: e for n, e in entries.items() if n != name})
    return Place(copy.denoiser, name)


@fault(
    "GM201",
    "coverage",
    layer="text-encoder",
    entries=(
        "mt5-shared-lost-in-safetensors-conversion",
        "accelerate-shared-tensor-removed",
        "tied-missing-key-no-warning",
    ),
    seen_in="https://github.com/safetensors/safetensors/issues/520",
)
def embedding_lost(copy: Copy) -> Place:
    """The only stored name of the tied token embedding was removed as a duplicate."""
    shared = embedding(copy)
    copy.rewrite(
        "text_encoder", lambda entries: {n: e for n, e in entries.items() if n not in (shared, ALIAS)}
    )
    return Place("text_encoder", shared)


@fault(
    "GM209",
    layer="version-skew",
    seen_in="https://github.com/huggingface/transformers/issues/48154",
)
def tie_broken(copy: Copy) -> Place:
    """The two names of the token embedding hold different values."""
    shared = embedding(copy)
    copy.rewrite(
        "text_encoder", lambda entries: entries | {ALIAS: entries[shared].changed(lambda t: t * 0.01)}
    )
    return Place("text_encoder", ALIAS)


@fault(
    "GM201",
    "coverage",
    layer="version-skew",
    entries=("t5-encoder-embedding-from-lm-head",),
    seen_in="https://github.com/huggingface/transformers/issues/48154",
)
def embedding_under_the_name_of_the_output(copy: Copy) -> Place:
    """The token embedding is missing, and a matrix of its shape lies there under the output projection's name."""
    shared = embedding(copy)
    copy.rewrite(
        "text_encoder",
        lambda entries: (
            {n: e for n, e in entries.items() if n not in (shared, ALIAS)}
            | {"lm_head.weight": entries[shared].changed(lambda t: t * 0.01)}
        ),
    )
    return Place("text_encoder", shared)


@fault(
    "GM210",
    "coverage",
    layer="distributed-save",
    entries=("zero3-empty-tensors",),
    seen_in="https://github.com/deepspeedai/DeepSpeed/issues/7900",
)
def placeholder_of_zero3(copy: Copy) -> Place:
    """A parameter was saved without being gathered under ZeRO stage 3: its shape is [0]."""
    name = copy.matrix()
    copy.change(copy.denoiser, name, lambda tensor: tensor.flatten()[:0], shape=(0,))
    return Place(copy.denoiser, name)


@fault("GM204", "coverage", layer="distributed-save")
def rows_of_one_process(copy: Copy) -> Place:
    """One process saved its share: a matrix has half of its rows."""
    name = copy.matrix()
    rows, columns = copy.tensors(copy.denoiser)[name].shape
    copy.change(copy.denoiser, name, lambda t: t[: rows // 2].contiguous(), shape=(rows // 2, columns))
    return Place(copy.denoiser, name)


@fault(
    "GM211",
    "coverage",
    layer="checkpoint-container",
    entries=("cogvideo-276-633-sat-file-contains-t5-vae",),
    seen_in="https://github.com/zai-org/CogVideo/issues/633",
)
def whole_engine_in_one_file(copy: Copy) -> Place:
    """The file of the denoiser holds the VAE too."""
    home = copy.first_file(copy.denoiser)
    others = {
        f"first_stage_model.{name}": replace(entry, file=home, touched=True)
        for name, entry in copy.tensors("vae").items()
    }
    copy.rewrite(copy.denoiser, lambda entries: entries | others)
    return Place(copy.denoiser)


@fault(
    "GM212",
    layer="quantization",
    entries=("diffusion-pipe-350-fp8-scaled-base",),
    seen_in="https://github.com/tdrussell/diffusion-pipe/issues/350",
)
def scaled_float8(copy: Copy) -> Place:
    """The matrices were divided by scales to fit into float8, and the scales lie beside them."""

    def scale(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.float().abs().max() / 448.0

    def small(tensor: torch.Tensor) -> torch.Tensor:
        import torch

        return (tensor.float() / scale(tensor)).to(torch.float8_e4m3fn)

    def quantise(entries: Entries) -> Mapping[str, Entry]:
        found: Entries = {}
        for name, entry in entries.items():
            if len(entry.shape) != 2 or not entry.is_float:
                found[name] = entry
                continue
            found[name] = entry.changed(small, dtype="F8_E4M3")
            found[f"{name.removesuffix('.weight')}.scale_weight"] = entry.changed(
                lambda tensor: scale(tensor).reshape(1), dtype="F32", shape=(1,)
            )
        return found

    copy.rewrite(copy.denoiser, quantise)
    return Place(copy.denoiser)


@fault(
    "GM201",
    "coverage",
    layer="ema",
    entries=("simpletuner-ema-fused-qkv",),
    seen_in="https://github.com/bghira/SimpleTuner/issues/1497",
)
def fused_projections_saved(copy: Copy) -> Place:
    """The average was taken of the model with fused projections: `to_qkv` stands for three names."""
    entries = copy.tensors(copy.denoiser)
    layers = [n.removesuffix("to_q.weight") for n in entries if n.endswith("to_q.weight")]
    layers = [layer for layer in layers if f"{layer}to_k.weight" in entries]
    if not layers:
        copy.does_not_apply("the denoiser has no separate query, key and value projections")

    def fuse(entries: Entries) -> Mapping[str, Entry]:
        found = dict(entries)
        for layer in layers:
            for kind in ("weight", "bias"):
                parts = [found.pop(f"{layer}{one}.{kind}", None) for one in ("to_q", "to_k", "to_v")]
                if parts[0] is None or parts[1] is None or parts[2] is None:
                    continue
                found[f"{layer}to_qkv.{kind}"] = _stacked([part for part in parts if part])
        return found

    copy.rewrite(copy.denoiser, fuse)
    return Place(copy.denoiser)


def _stacked(parts: list[Entry]) -> Entry:
    def read() -> torch.Tensor:
        import torch

        return torch.cat([part.read() for part in parts])

    rows = sum(part.shape[0] for part in parts)
    return replace(parts[0], shape=(rows, *parts[0].shape[1:]), read=read, touched=True)
