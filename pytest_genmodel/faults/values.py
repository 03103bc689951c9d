"""Faults of values: what is stored is no number, was never filled, or was never trained."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.registry import Place, fault

if TYPE_CHECKING:
    import torch

_FP16 = "https://github.com/zai-org/CogVideo/commit/36f133378869a4e5e5480f1a0df43e1f80c24c3c"
_UMT5 = "https://github.com/huggingface/transformers/pull/43880"
SHARED, ALIAS = "shared.weight", "encoder.embed_tokens.weight"


def _spoil(copy: Copy, name: str, tensor: str, value: float) -> Place:
    def poison(stored: torch.Tensor) -> torch.Tensor:
        stored = stored.clone()
        stored.view(-1)[min(7, stored.numel() - 1)] = value
        return stored

    copy.change(name, tensor, poison)
    return Place(name, tensor)


def embedding(copy: Copy) -> str:
    """The stored name of the text encoder's token embedding."""
    if SHARED not in copy.tensors("text_encoder"):
        copy.does_not_apply("the text encoder has no tied token embedding")
    return SHARED


@fault("GM304", layer="weights-values", seen_in="https://github.com/bmaltais/kohya_ss/issues/2541")
def not_a_number(copy: Copy) -> Place:
    """One value of one tensor of the denoiser became NaN."""
    return _spoil(copy, copy.denoiser, copy.matrix(), float("nan"))


@fault(
    "GM304",
    layer="dtype",
    entries=("kohya-2541-nan-latents-guard",),
    seen_in="https://github.com/bmaltais/kohya_ss/issues/2541",
)
def not_a_number_in_the_vae(copy: Copy) -> Place:
    """One value of the VAE became NaN, and every cached latent with it."""
    name = next(n for n, entry in copy.tensors("vae").items() if entry.is_float and len(entry.shape) > 1)
    return _spoil(copy, "vae", name, float("nan"))


@fault("GM304", layer="weights-values")
def infinite_value(copy: Copy) -> Place:
    """One value of one tensor of the text encoder became infinite."""
    return _spoil(copy, "text_encoder", copy.matrix("text_encoder"), float("inf"))


@fault("GM304", layer="dtype", entries=("cogvideo-bf16-enabled-means-fp16",), seen_in=_FP16)
def overflow_of_float16(copy: Copy) -> Place:
    """A component with values beyond 65504 was stored in float16: they became Inf."""
    name = embedding(copy)
    copy.change("text_encoder", name, lambda tensor: tensor.float().mul(1e7).to(tensor.dtype))
    copy.change_all("text_encoder", lambda tensor: tensor.half(), "F16")
    return Place("text_encoder", name)


@fault("GM307", layer="weights-values", severity="warning")
def zero_matrix(copy: Copy) -> Place:
    """A projection of the denoiser is all zero."""
    name = copy.matrix()
    copy.change(copy.denoiser, name, lambda tensor: tensor * 0)
    return Place(copy.denoiser, name)


@fault("GM307", layer="text-encoder", seen_in=_UMT5)
def zero_embedding(copy: Copy) -> Place:
    """The token embedding is all zero, so that every prompt means the same."""
    name = embedding(copy)
    copy.change("text_encoder", name, lambda tensor: tensor * 0)
    return Place("text_encoder", name)


@fault("GM209", layer="text-encoder", entries=("umt5-embed-tokens-not-tied",), seen_in=_UMT5)
def zero_embedding_beside_the_real_one(copy: Copy) -> Place:
    """The tie of the token embedding was lost: the second name holds zeros."""
    name = embedding(copy)
    copy.rewrite("text_encoder", lambda entries: entries | {ALIAS: entries[name].changed(lambda t: t * 0)})
    return Place("text_encoder", ALIAS)


@fault(
    "GM307",
    layer="checkpoint-container",
    seen_in="https://github.com/huggingface/diffusers/issues/11989",
)
def download_broken_off(copy: Copy) -> Place:
    """The file has its size, and its last third is zeros: the copy was broken off."""
    file = copy.own(copy.first_file(copy.denoiser))
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size - size // 3)
        for begin in range(0, size // 3, 1 << 24):
            stream.write(bytes(min(1 << 24, size // 3 - begin)))
    return Place(copy.denoiser)


@fault("GM308", layer="weights-values", severity="warning")
def constant_matrix(copy: Copy) -> Place:
    """A projection of the denoiser was filled with one number."""
    name = copy.matrix()
    copy.change(copy.denoiser, name, lambda tensor: tensor * 0 + 0.5)
    return Place(copy.denoiser, name)


@fault(
    "GM309",
    layer="config",
    entries=("diffusers-3428-from-config-random",),
    seen_in="https://github.com/huggingface/diffusers/issues/3428",
)
def built_from_its_configuration(copy: Copy) -> Place:
    """The denoiser was built with from_config, and its random weights were saved."""
    import torch

    from pytest_genmodel.pipelines.library import class_named, quiet

    component = copy.component(copy.denoiser)
    if sum(file.stat().st_size for file in component.file_sets[0].files) > 2_000_000_000:
        copy.does_not_apply("the denoiser is too large to be built anew")
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cls = class_named(component.home, component.class_name)
        fresh = cls.from_config(dict(component.config))
        shutil.rmtree(component.folder)
        fresh.save_pretrained(component.folder)
    return Place(copy.denoiser)


@fault(
    "GM309",
    layer="key-naming",
    severity="warning",
    model="cogvideox-i2v-trained",
    entries=("videometamaterials-2-swallowed-load-error",),
    seen_in="https://github.com/jhbastek/VideoMetamaterials/issues/2",
)
def layer_never_loaded(copy: Copy) -> Place:
    """One layer among trained ones still holds the values that torch makes a Linear with."""
    import torch

    def make(tensor: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        bound = float(tensor.shape[1]) ** -0.5
        drawn = torch.rand(tensor.shape, generator=generator) * 2 * bound - bound
        made: torch.Tensor = drawn.to(tensor.dtype)
        return made

    name = copy.matrix()
    copy.change(copy.denoiser, name, make)
    return Place(copy.denoiser, name)


@fault(
    "GM312",
    layer="weights-values",
    severity="note",
    entries=("bf16-cast-on-the-way",),
    seen_in="https://github.com/huggingface/peft/issues/1388",
)
def through_bfloat16(copy: Copy) -> Place:
    """The weights were rounded to bfloat16 on the way, and stored in float32 again."""
    if not any(entry.dtype == "F32" for entry in copy.tensors(copy.denoiser).values()):
        copy.does_not_apply("the denoiser is stored in 16 bits")
    copy.change_all(copy.denoiser, lambda tensor: tensor.bfloat16().to(tensor.dtype))
    return Place(copy.denoiser)


@fault(
    "GM313",
    layer="dtype",
    severity="warning",
    entries=("fp16-on-bf16-trained-model", "cogvideo-311-fp16-noise"),
    seen_in="https://github.com/huggingface/finetrainers/issues/182",
)
def too_large_for_float16(copy: Copy) -> Place:
    """A tensor holds a value that bfloat16 can hold and float16 cannot."""

    def enlarge(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.bfloat16()
        tensor.view(-1)[3] = 1e6
        return tensor

    name = copy.matrix()
    copy.rewrite(
        copy.denoiser, lambda entries: entries | {name: entries[name].changed(enlarge, dtype="BF16")}
    )
    return Place(copy.denoiser, name)


@fault(
    "GM301",
    "same_weights",
    layer="image-conditioning",
    expect="identical",
    entries=("i2v-condition-is-pure-noise",),
    seen_in="https://github.com/zai-org/CogVideo/issues/404",
)
def image_channels_zeroed(copy: Copy) -> Place:
    """The input channels that take the image have weight zero: the image changes nothing."""
    if copy.family.name != "cogvideox":
        copy.does_not_apply("the image does not enter in the upper channels of patch_embed.proj")
    name = "patch_embed.proj.weight"

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        half = tensor.shape[1] // 2
        tensor[:, half:] = 0
        return tensor

    copy.change(copy.denoiser, name, cut)
    return Place(copy.denoiser, name)


@fault(
    "GM301",
    "same_weights",
    layer="positional-embedding",
    expect="identical",
    entries=("i2v-learned-pos-embedding-unused",),
    seen_in="https://github.com/zai-org/CogVideo/issues/323",
)
def position_table_zeroed(copy: Copy) -> Place:
    """The learned position table is all zero."""
    name = position_table(copy)
    copy.change(copy.denoiser, name, lambda tensor: tensor * 0)
    return Place(copy.denoiser, name)


def position_table(copy: Copy) -> str:
    """The stored name of the denoiser's learned position table."""
    found = next((n for n in copy.tensors(copy.denoiser) if n.endswith("pos_embedding")), None)
    if found is None:
        copy.does_not_apply("the denoiser has no learned position table")
    return found


@fault("GM301", "same_weights", layer="weights-values", expect="identical")
def one_bit_flipped(copy: Copy) -> Place:
    """One bit of one value was flipped on the way (a bad disk, a bad cable)."""
    import torch

    def flip(tensor: torch.Tensor) -> torch.Tensor:
        raw = tensor.clone().contiguous().view(torch.uint8).view(-1)
        raw[0] ^= 1
        return raw.view(tensor.dtype).view(tensor.shape)

    name = copy.matrix()
    copy.change(copy.denoiser, name, flip)
    return Place(copy.denoiser, name)


@fault("GM318", "same_weights", layer="weights-values", expect="identical")
def matrix_transposed(copy: Copy) -> Place:
    """A square matrix was transposed by the converter."""
    entries = copy.tensors(copy.denoiser)
    name = next((n for n in sorted(copy.matrices(copy.denoiser)) if len(set(entries[n].shape)) == 1), None)
    if name is None:
        copy.does_not_apply("the denoiser has no square matrix")
    copy.change(copy.denoiser, name, lambda tensor: tensor.T.contiguous())
    return Place(copy.denoiser, name)


@fault(
    "GM304",
    layer="ema",
    entries=("osp-524-which-weights",),
    seen_in="https://github.com/PKU-YuanGroup/Open-Sora-Plan/issues/524",
)
def raw_weights_broken_and_average_sound(copy: Copy) -> Place:
    """Two sets lie in the folder; the average is sound, the raw one, which is read, is broken."""
    from pytest_genmodel.faults.copy import clone

    clone(copy.path(copy.denoiser), copy.folder / f"{copy.denoiser}_ema")
    return _spoil(copy, copy.denoiser, copy.matrix(), float("nan"))
