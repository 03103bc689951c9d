"""Faults that show against the reference: nothing moved, too much moved, or the right values lie at wrong places."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_genmodel.faults.copy import Copy, clone
from pytest_genmodel.faults.registry import Place, fault
from pytest_genmodel.faults.stored import Entries, Entry

if TYPE_CHECKING:
    import torch


def noise(tensor: torch.Tensor, size: float, seed: int = 0) -> torch.Tensor:
    """Gaussian noise of `size` times the tensor's own spread, drawn from a generator of its own."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    spread = float(tensor.float().std()) if tensor.numel() > 1 else 1.0
    return (torch.randn(tensor.shape, generator=generator) * size * spread).to(tensor.dtype)


def fine_tune(copy: Copy, size: float = 0.005) -> None:
    """Move every tensor of the denoiser a little, as a fine-tune does."""

    def move(entry: Entry, seed: int) -> Entry:
        return entry.changed(lambda tensor: tensor + noise(tensor, size, seed))

    copy.rewrite(
        copy.denoiser,
        lambda entries: {
            name: move(entry, seed) if entry.is_float else entry
            for seed, (name, entry) in enumerate(entries.items())
        },
    )


@fault(
    "GM302",
    "same_weights",
    layer="weights-values",
    expect="finetuned",
    only_if_trained=True,
    entries=("identical-weights-from-two-paths",),
    seen_in="https://github.com/huggingface/diffusers/issues/9332",
)
def nothing_trained(copy: Copy) -> Place:
    """The result of the training is the model that went in."""
    if copy.reference is None:
        copy.does_not_apply("it shows against a reference only")
    folder = copy.path(copy.denoiser)
    copy.delete(folder)
    clone(copy.reference / copy.denoiser, folder)
    return Place(copy.denoiser, f"{copy.denoiser}/")


def _conv_of_vae(copy: Copy) -> str:
    entries = copy.tensors("vae")
    found = next((n for n in sorted(entries) if n.endswith("weight") and len(entries[n].shape) > 2), None)
    if found is None:
        copy.does_not_apply("the VAE has no convolution")
    return found


@fault("GM301", "same_weights", layer="vae", expect="finetuned")
def frozen_part_changed(copy: Copy) -> Place:
    """The VAE was trained along with the denoiser."""
    name = _conv_of_vae(copy)
    copy.change("vae", name, lambda tensor: tensor + noise(tensor, 0.01))
    return Place("vae", name)


@fault(
    "GM301",
    "same_weights",
    layer="vae",
    expect="finetuned",
    entries=("animatediff-282-wrong-vae",),
    seen_in="https://github.com/continue-revolution/sd-webui-animatediff/issues/282",
)
def another_vae(copy: Copy) -> Place:
    """The VAE is one of another model: equal shapes, another latent space."""
    copy.change_all("vae", lambda tensor: noise(tensor, 1.0, seed=7))
    return Place("vae")


@fault("GM305", "same_weights", layer="dtype", expect="finetuned")
def saved_in_bfloat16(copy: Copy) -> Place:
    """The VAE was saved in bfloat16."""
    import torch

    if any(entry.dtype in ("BF16", "F16") for entry in copy.tensors("vae").values()):
        copy.does_not_apply("the VAE is stored in 16 bits")
    copy.change_all("vae", lambda tensor: tensor.to(torch.bfloat16), "BF16")
    return Place("vae")


@fault(
    "GM305",
    "same_weights",
    layer="quantization",
    expect="identical",
    entries=("keep-in-fp32-lost-in-quantisation",),
    seen_in="https://github.com/intel/auto-round/pull/2205",
)
def sensitive_layers_in_bfloat16(copy: Copy) -> Place:
    """What must stay in float32, the time embedding and the norms, was stored in bfloat16."""
    import torch

    def sensitive(name: str, entry: Entry) -> bool:
        return entry.dtype == "F32" and bool(re.search(r"time_embed|norm", name))

    if not any(sensitive(name, entry) for name, entry in copy.tensors(copy.denoiser).items()):
        copy.does_not_apply("the denoiser has no norms or time embedding in float32")
    copy.rewrite(
        copy.denoiser,
        lambda entries: {
            n: e.changed(lambda t: t.to(torch.bfloat16), dtype="BF16") if sensitive(n, e) else e
            for n, e in entries.items()
        },
    )
    return Place(copy.denoiser)


@fault(
    "GM305",
    "same_weights",
    layer="dtype",
    expect="finetuned",
    entries=("t5-single-file-fp32-layers-cast",),
    seen_in="https://github.com/huggingface/diffusers/pull/8778",
)
def output_layers_of_the_text_encoder_in_float16(copy: Copy) -> Place:
    """The layers of T5 that must stay in float32 (`wo`) were stored in float16."""
    names = [
        n for n, e in copy.tensors("text_encoder").items() if n.endswith(".wo.weight") and e.dtype == "F32"
    ]
    if not names:
        copy.does_not_apply("the text encoder has no `wo` in float32")
    copy.rewrite(
        "text_encoder",
        lambda entries: {
            n: e.changed(lambda t: t.half(), dtype="F16") if n in names else e for n, e in entries.items()
        },
    )
    return Place("text_encoder", names[0])


@fault("GM207", "same_weights", layer="checkpoint-container", expect="finetuned")
def tensor_left_out(copy: Copy) -> Place:
    """The saver left a tensor out."""
    name = copy.matrix()
    copy.rewrite(copy.denoiser, lambda entries: {n: e for n, e in entries.items() if n != name})
    return Place(copy.denoiser, name)


@fault("GM314", "same_weights", layer="key-naming", expect="finetuned")
def two_layers_swapped(copy: Copy) -> Place:
    """The converter swapped to_q and to_k, and the model was trained on."""
    one, other = sorted((copy.matrix(), copy.sibling()))
    copy.rewrite(copy.denoiser, lambda entries: entries | _exchanged(entries, one, other))
    return Place(copy.denoiser, one)


def _exchanged(entries: Entries, one: str, other: str) -> Entries:
    first, second = entries[one], entries[other]
    return {
        one: replace(second, file=first.file, touched=True),
        other: replace(first, file=second.file, touched=True),
    }


def _blocks(copy: Copy) -> str:
    """The prefix of the denoiser's blocks, at least two of them."""
    for name in copy.tensors(copy.denoiser):
        match = re.match(r"^(.*?blocks\.)1\.", name)
        if match:
            return match[1]
    return copy.does_not_apply("the denoiser has no two blocks")


@fault("GM314", "same_weights", layer="key-naming", expect="finetuned")
def layers_off_by_one(copy: Copy) -> Place:
    """The blocks were counted from one: block 1 holds what block 0 should, and no other block is left for it."""
    prefix = _blocks(copy)

    def move(entries: Entries) -> Mapping[str, Entry]:
        moved = {
            name: replace(entries[old], file=entries[name].file, touched=True)
            for name in entries
            if name.startswith(f"{prefix}1.")
            and (old := name.replace(f"{prefix}1.", f"{prefix}0.", 1)) in entries
        }
        return entries | moved

    copy.rewrite(copy.denoiser, move)
    return Place(copy.denoiser)


@fault("GM314", "same_weights", layer="key-naming", expect="finetuned")
def blocks_swapped(copy: Copy) -> Place:
    """Two blocks have changed places."""
    prefix = _blocks(copy)

    def swap(entries: Entries) -> Mapping[str, Entry]:
        found = dict(entries)
        for name in entries:
            other = name.replace(f"{prefix}1.", f"{prefix}0.", 1)
            if name.startswith(f"{prefix}1.") and other in entries:
                found |= _exchanged(entries, name, other)
        return found

    copy.rewrite(copy.denoiser, swap)
    return Place(copy.denoiser)


@fault(
    "GM315",
    "same_weights",
    layer="distributed-save",
    expect="identical",
    entries=("zero-to-fp32-wrong-weights",),
    seen_in="https://github.com/deepspeedai/DeepSpeed/issues/1165",
)
def cut_at_a_wrong_offset(copy: Copy) -> Place:
    """The tensors were cut out of one flat buffer, two elements too late from the start on."""
    import torch

    entries = copy.tensors(copy.denoiser)
    if sum(file.stat().st_size for file in copy.component(copy.denoiser).file_sets[0].files) > 2_000_000_000:
        copy.does_not_apply("the denoiser is too large to be laid out in one buffer")
    stored = {name: entry.read() for name, entry in entries.items()}
    flat = torch.cat([tensor.flatten().float() for tensor in stored.values()] + [torch.zeros(2)])

    def cut(tensor: torch.Tensor, place: int) -> torch.Tensor:
        return flat[place : place + tensor.numel()].reshape(tensor.shape).to(tensor.dtype)

    places, place = {}, 2
    for name, tensor in stored.items():
        places[name] = place
        place += tensor.numel()

    def at(place: int) -> object:
        return lambda tensor: cut(tensor, place)

    copy.rewrite(
        copy.denoiser,
        lambda entries: {name: entry.changed(at(places[name])) for name, entry in entries.items()},  # type: ignore[arg-type]
    )
    return Place(copy.denoiser)


@fault(
    "GM316",
    "same_weights",
    layer="optimizer",
    expect="finetuned",
    seen_in="https://github.com/huggingface/diffusers/issues/1009",
)
def weight_decay_on_a_frozen_part(copy: Copy) -> Place:
    """AdamW had the frozen VAE among its parameters: it got no gradient, and weight decay shrank it."""
    copy.change_all("vae", lambda tensor: tensor * 0.97)
    return Place("vae")


@fault(
    "GM301",
    "same_weights",
    layer="optimizer",
    expect="finetuned",
    entries=("textual-inversion-weight-decay-drift",),
    seen_in="https://github.com/huggingface/diffusers/issues/1009",
)
def weight_decay_on_every_word_but_one(copy: Copy) -> Place:
    """One row of the token embedding was trained, and weight decay shrank all others."""
    name = next((n for n in ("shared.weight",) if n in copy.tensors("text_encoder")), None)
    if name is None:
        copy.does_not_apply("the text encoder has no token embedding called shared.weight")

    def decay(tensor: torch.Tensor) -> torch.Tensor:
        shrunk = tensor * 0.99
        shrunk[3] = tensor[3]
        return shrunk

    copy.change("text_encoder", name, decay)
    return Place("text_encoder", name)


@fault(
    "GM317",
    "same_weights",
    layer="key-naming",
    severity="warning",
    expect="finetuned",
    seen_in="https://github.com/zai-org/CogVideo/issues/374",
)
def layer_made_anew(copy: Copy) -> Place:
    """One layer was in no file when training began, and kept random values; all others moved a little."""
    name = copy.matrix()
    copy.change(copy.denoiser, name, lambda tensor: noise(tensor, 1.0, seed=99))
    return Place(copy.denoiser, name)


@fault(
    "GM314",
    "same_weights",
    layer="ema",
    expect="finetuned",
    seen_in="https://github.com/bghira/SimpleTuner/issues/1497",
)
def average_loaded_by_order(copy: Copy) -> Place:
    """The average's tensors were assigned by their order, and one was missing: each sits one place too early."""
    entries = copy.tensors(copy.denoiser)
    shape = entries[copy.matrix()].shape
    alike = [name for name in sorted(entries) if entries[name].shape == shape]

    def rotate(entries: Entries) -> Mapping[str, Entry]:
        return entries | {
            name: replace(entries[alike[(place + 1) % len(alike)]], file=entries[name].file, touched=True)
            for place, name in enumerate(alike)
        }

    copy.rewrite(copy.denoiser, rotate)
    return Place(copy.denoiser)


@fault(
    "GM317",
    "same_weights",
    layer="ema",
    severity="warning",
    expect="finetuned",
    entries=("ema-update-sign-flipped",),
    seen_in="https://github.com/ostris/ai-toolkit/issues/1034",
)
def average_ran_away(copy: Copy) -> Place:
    """The average was pushed away from the weights at every step instead of towards them."""

    def away(entry: Entry, seed: int) -> Entry:
        return entry.changed(lambda tensor: tensor + noise(tensor, 3.0, seed))

    copy.rewrite(
        copy.denoiser,
        lambda entries: {
            name: away(entry, seed) if entry.is_float else entry
            for seed, (name, entry) in enumerate(entries.items())
        },
    )
    return Place(copy.denoiser)
