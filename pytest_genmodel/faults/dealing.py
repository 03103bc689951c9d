"""Faults of converters, mergers and savers that mix what belongs apart: rows, bits, bases, layers, shares."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.writing import write_safetensors
from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.editing import ADAPTER, edit
from pytest_genmodel.faults.lora_file import METADATA, adapter_component, adapter_file
from pytest_genmodel.faults.registry import Place, fault
from pytest_genmodel.faults.stored import Entries, Entry, weight_set

if TYPE_CHECKING:
    import torch

    Read = Callable[[str], torch.Tensor]
    Make = Callable[[str, Read, Read], torch.Tensor]

_VALUES = "weights-values"
_ATTENTION = re.compile(r"\battn1\.to_[qkv]\.(weight|bias)$")
_PROJECTION = re.compile(r"\battn1\.to_[qkv]\.weight$")


def _remade(copy: Copy, make: Make, among: re.Pattern[str] | None = None) -> list[str]:
    """Replace tensors of the denoiser, one at a time: `make` gets the name, and how to read ours and the reference's.

    Gives the names (of all floating-point tensors, or of those that match), weights before biases.
    """
    if copy.reference is None:
        copy.does_not_apply("it is made of the reference's weights")
    base, entries = Copy(copy.reference).tensors(copy.denoiser), copy.tensors(copy.denoiser)
    names = [n for n, e in entries.items() if e.is_float and n in base and (not among or among.search(n))]
    if not names:
        copy.does_not_apply(f"the denoiser has no tensor like {among.pattern if among else 'the reference'}")

    def put(stored: Entries) -> Mapping[str, Entry]:
        def changed(name: str) -> Entry:
            return stored[name].changed(
                lambda _: make(name, lambda n: entries[n].read(), lambda n: base[n].read()).contiguous()
            )

        return {n: changed(n) if n in names else e for n, e in stored.items()}

    copy.rewrite(copy.denoiser, put)
    return sorted(names, key=lambda name: name.endswith("bias"))


@fault(
    "GM326",
    "same_weights",
    layer="key-naming",
    expect="finetuned",
    seen_in="https://github.com/sgl-project/sglang/issues/40127",
)
def fused_projections_cut_in_thirds(copy: Copy) -> Place:
    """Queries, keys and values were one matrix, head by head, and it was cut in three as if they lay one by one."""
    import torch

    width = int(copy.config(copy.denoiser).get("attention_head_dim") or 0)
    if not width:
        copy.does_not_apply("the denoiser's configuration states no width of a head")

    def cut(name: str, ours: Read, base: Read) -> torch.Tensor:
        parts = [ours(re.sub(r"to_[qkv]\.", f"to_{kind}.", name)) for kind in "qkv"]
        heads = torch.stack([part.reshape(-1, width, *part.shape[1:]) for part in parts], 1)
        which = "qkv".index(name.rsplit(".", 2)[1][-1])
        return heads.reshape(-1, *parts[0].shape[1:]).chunk(3)[which]

    return Place(copy.denoiser, _remade(copy, cut, _ATTENTION)[0])


@fault(
    "GM318",
    "same_weights",
    layer=_VALUES,
    expect="finetuned",
    seen_in="https://github.com/chrishayuk/larql/pull/18",
)
def axes_in_reverse(copy: Copy) -> Place:
    """GGUF names a matrix's axes in reverse: its values were read into the shape without being turned."""
    wide = re.compile(r"\bff\w*\.net\.0\.proj\.weight$")
    return Place(
        copy.denoiser,
        _remade(copy, lambda name, ours, base: ours(name).T.reshape(ours(name).shape), wide)[0],
    )


@fault(
    "GM327",
    "same_weights",
    layer="dtype",
    expect="finetuned",
    seen_in="https://github.com/JustVugg/colibri/pull/778",
)
def bits_of_another_dtype(copy: Copy) -> Place:
    """The attention's matrices were written as bfloat16, and their bits read as float16."""
    import torch

    def misread(name: str, ours: Read, base: Read) -> torch.Tensor:
        return ours(name).to(torch.bfloat16).view(torch.float16).to(ours(name).dtype)

    return Place(copy.denoiser, _remade(copy, misread, re.compile(r"\battn1\.to_\w+\.weight$"))[0])


@fault(
    "GM316",
    "same_weights",
    layer="ema",
    expect="finetuned",
    seen_in="https://github.com/huggingface/pytorch-image-models/issues/1182",
)
def average_begun_at_zero(copy: Copy) -> Place:
    """The average was begun at zero and never divided by what its weights add up to: 1000 steps at 0.999."""
    _remade(copy, lambda name, ours, base: ours(name) * (1 - 0.999**1000))
    return Place(copy.denoiser)


@fault(
    "GM328",
    "same_weights",
    layer=_VALUES,
    expect="finetuned",
    seen_in="https://github.com/allenai/open-instruct/issues/51",
)
def difference_without_its_base(copy: Copy) -> Place:
    """The file holds what training changed, and not the weights: it must be added to the base."""
    _remade(copy, lambda name, ours, base: ours(name) - base(name))
    return Place(copy.denoiser)


@fault("GM314", "same_weights", layer="key-naming", expect="finetuned", model="cogvideox-i2v-trained")
def norms_of_queries_and_keys_swapped(copy: Copy) -> Place:
    """The norms of the queries and those of the keys have changed places in every block."""
    turn = {"q": "k", "k": "q"}
    norm = re.compile(r"(?<=\bnorm_)[qk]\b")
    _remade(copy, lambda name, ours, base: ours(norm.sub(lambda found: turn[found[0]], name)), norm)
    return Place(copy.denoiser)


@fault(
    "GM329",
    "same_weights",
    layer="distributed-save",
    expect="finetuned",
    seen_in="https://github.com/huggingface/accelerate/pull/4206",
)
def share_of_one_process(copy: Copy) -> Place:
    """One of two processes saved its share of the rows; the other half of each matrix is the base's."""
    import torch

    def fill(name: str, ours: Read, base: Read) -> torch.Tensor:
        tensor = ours(name)
        half = len(tensor) // 2 if tensor.ndim > 1 else len(tensor)
        return torch.cat([tensor[:half], base(name)[half:]])

    _remade(copy, fill)
    return Place(copy.denoiser)


@fault(
    "GM810",
    "same_weights",
    layer="lora",
    needs_reference=True,
    seen_in="https://github.com/unslothai/unsloth/issues/289",
)
def adapter_merged_twice(copy: Copy) -> Place:
    """Saving merged the LoRA, and saving again merged it into what was merged; the LoRA lies beside it."""
    import torch
    from safetensors.torch import save_file

    rank, generator = 4, torch.Generator().manual_seed(0)
    factors: dict[str, torch.Tensor] = {}
    for name, entry in copy.tensors(copy.denoiser).items():
        if _PROJECTION.search(name):
            for half, shape in (("A", (rank, entry.shape[1])), ("B", (entry.shape[0], rank))):
                factor = f"{copy.denoiser}.{name.removesuffix('weight')}lora_{half}.weight"
                factors[factor] = torch.randn(shape, generator=generator) * 0.05
    if not factors:
        copy.does_not_apply("the denoiser has no attn1.to_q")
    header = json.dumps({f"{copy.denoiser}.{key}": value for key, value in (("r", rank), ("lora_alpha", 8))})
    save_file(factors, copy.folder / ADAPTER, {"format": "pt", METADATA: header})

    def merge(entries: Entries) -> Mapping[str, Entry]:
        made = dict(entries)
        for name, entry in entries.items():
            layer = f"{copy.denoiser}.{name.removesuffix('weight')}"
            if (up := factors.get(f"{layer}lora_B.weight")) is not None:
                more = 2 * (8 / rank) * up @ factors[f"{layer}lora_A.weight"]
                made[name] = entry.changed(lambda t, more=more: (t + more).to(t.dtype))  # type: ignore[misc]
        return made

    copy.rewrite(copy.denoiser, merge)
    return Place(copy.denoiser)


@fault("GM811", layer="lora", kind="adapter")
def factors_of_one_layer_everywhere(copy: Copy) -> Place:
    """The saver's loop kept the factors of its first layer, and wrote them under every name."""

    def repeat(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        first: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        return {
            n: first.setdefault((n.rpartition(".lora_")[2], tuple(t.shape)), t).clone()
            for n, t in sorted(tensors.items())
        }

    edit(adapter_file(copy), repeat)
    return Place(adapter_component(copy))


@fault("GM212", layer="quantization")
def integers_without_their_configuration(copy: Copy) -> Place:
    """The denoiser was saved in 8 bits by bitsandbytes, and its configuration without quantization_config."""
    import torch

    def put(like: Entry, tensor: torch.Tensor, dtype: str) -> Entry:
        return Entry(dtype, tuple(tensor.shape), like.file, lambda: tensor, touched=True)

    def quantize(entries: Entries) -> Mapping[str, Entry]:
        made = dict(entries)
        for name, entry in entries.items():
            if _PROJECTION.search(name):
                weight = entry.read().float()
                largest = weight.abs().amax(1).clamp_min(1e-12)
                made[name] = put(entry, (weight / largest[:, None] * 127).round().to(torch.int8), "I8")
                made[f"{name.removesuffix('weight')}SCB"] = put(entry, largest, "F32")
        if len(made) == len(entries):
            copy.does_not_apply("the denoiser has no attn1.to_q")
        return made

    copy.rewrite(copy.denoiser, quantize)
    return Place(copy.denoiser)


@fault(
    "GM330",
    layer=_VALUES,
    severity="warning",
    seen_in="https://github.com/predibase/lorax/issues/685",
)
def dropped_and_not_scaled_up(copy: Copy) -> Place:
    """A merge dropped half of the values at random, and did not scale up the others."""
    import torch

    generator = torch.Generator().manual_seed(0)
    copy.change_all(
        copy.denoiser,
        lambda t: t * (torch.rand(t.shape, generator=generator) >= 0.5).to(t.dtype) if t.ndim > 1 else t,
    )
    return Place(copy.denoiser)


def _must_be_one_file(copy: Copy) -> None:
    if copy.component(copy.denoiser).file_sets[0].index is not None:
        copy.does_not_apply("the denoiser lies in several files already")


@fault("GM331", "same_weights", layer="distributed-save", expect="finetuned")
def shard_of_the_base(copy: Copy) -> Place:
    """The save of the second shard was whole and that of the first was not: the base's lies in its place."""
    if copy.reference is None:
        copy.does_not_apply("it shows against a reference only")
    _must_be_one_file(copy)
    base, entries = Copy(copy.reference).tensors(copy.denoiser), copy.tensors(copy.denoiser)
    names = list(entries)
    block = [found[0] if (found := re.match(r".*?\.\d+\.", name)) else None for name in names]
    middle = range(45 * len(names) // 100, len(names))
    cut = next((place for place in middle if block[place] and block[place] == block[place - 1]), None)
    if cut is None or base.keys() != entries.keys():
        copy.does_not_apply("the denoiser has no block to be cut, or another one than the reference")
    folder = copy.path(copy.denoiser)
    stem, _, ending = copy.first_file(copy.denoiser).name.partition(".")
    files = [folder / f"{stem}-0000{number}-of-00002.{ending}" for number in (1, 2)]
    for file, part, of in ((files[0], names[:cut], base), (files[1], names[cut:], entries)):
        write_safetensors(file, weight_set({name: replace(of[name], file=file) for name in part}))
    copy.delete(copy.first_file(copy.denoiser))
    placed = {name: files[place >= cut].name for place, name in enumerate(names)}
    index = folder / f"{stem}.{ending}.index.json"
    copy.write(index, json.dumps({"metadata": {}, "weight_map": placed}))
    return Place(copy.denoiser, files[0].name)


@fault(
    "GM332",
    "same_weights",
    layer="checkpoint-container",
    expect="identical",
    seen_in="https://github.com/deepbeepmeep/Wan2GP/issues/2367",
)
def stretch_written_over(copy: Copy) -> Place:
    """A stretch of the VAE's file was written over by the bytes before it: its size and its header are right."""
    file = copy.own(copy.first_file("vae"))
    content = bytearray(file.read_bytes())
    size, middle = len(content) // 16 // 64 * 64, len(content) // 2 // 64 * 64
    content[middle : middle + size] = content[middle - size : middle]
    copy.write(file, bytes(content))
    return Place("vae")


@fault(
    "GM105",
    layer="checkpoint-container",
    severity="warning",
    expect="finetuned",
    seen_in="https://github.com/huggingface/diffusers/issues/14719",
)
def variant_of_an_older_save(copy: Copy) -> Place:
    """The denoiser was saved anew, and its float16 variant is still the base's."""
    if copy.reference is None:
        copy.does_not_apply("the variant is made of the reference's weights")
    _must_be_one_file(copy)
    base = Copy(copy.reference).tensors(copy.denoiser)
    stem, _, ending = copy.first_file(copy.denoiser).name.rpartition(".")
    file = copy.path(copy.denoiser) / f"{stem}.fp16.{ending}"
    halves = {
        n: replace(e.changed(lambda t: t.half(), dtype="F16"), file=file)
        for n, e in base.items()
        if e.is_float
    }
    write_safetensors(file, weight_set(halves))
    return Place(copy.denoiser, file.name)


@fault(
    "GM333",
    layer="vae",
    severity="warning",
    model="ltx-i2v",
    seen_in="https://github.com/madebyollin/taehv/issues/22",
)
def latent_statistics_of_a_new_autoencoder(copy: Copy) -> Place:
    """The converter did not carry the latents' mean and spread over: they are 0 and 1, as the class makes them."""
    new = {"latents_mean": 0.0, "latents_std": 1.0}
    if not new.keys() <= copy.tensors("vae").keys():
        copy.does_not_apply("the autoencoder keeps no statistics beside its weights")
    for name, number in new.items():
        copy.change("vae", name, lambda tensor, number=number: tensor * 0 + number)  # type: ignore[misc]
    return Place("vae", "latents_mean")
