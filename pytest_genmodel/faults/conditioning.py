"""Faults of a library that make the conditions arrive wrongly: image, prompt, positions, time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.library import denoiser_sees, only_for, pipeline_class
from pytest_genmodel.faults.registry import Place, broken_library
from pytest_genmodel.pipelines.replaced import Original, replaced

_IMAGE = "image-conditioning"
_PREPROCESS = "https://github.com/zai-org/CogVideo/commit/b36266367999d13993391f3e0fc7d1178e46fdf7"


@contextmanager
def _image_becomes(change: Callable[[Any], Any]) -> Iterator[None]:
    """What the image processor gives, in [-1, 1], comes out changed."""
    from diffusers.image_processor import VaeImageProcessor

    def make(original: Original) -> Original:
        return lambda self, *arguments, **options: change(original(self, *arguments, **options))

    with replaced(VaeImageProcessor, "preprocess", make):
        yield


@broken_library(
    "GM910",
    "conditions_matter",
    place=Place("vae", "image"),
    layer=_IMAGE,
    entries=("cogvideo-558-image-condition-is-noise",),
    seen_in="https://github.com/zai-org/CogVideo/issues/558",
)
@contextmanager
def image_latents_are_noise(copy: Copy) -> Iterator[None]:
    """The VAE encodes noise in place of the image."""
    import torch

    def noise(image: Any) -> Any:
        return torch.randn(image.shape, generator=torch.Generator().manual_seed(5)).to(image).clamp(-1, 1)

    with _image_becomes(noise):
        yield


@broken_library(
    "GM910",
    "conditions_matter",
    place=Place("vae", "image"),
    layer=_IMAGE,
    seen_in="https://github.com/zai-org/CogVideo/issues/404",
)
@contextmanager
def image_latents_are_zero(copy: Copy) -> Iterator[None]:
    """The image is black before it is encoded, whatever was given."""
    with _image_becomes(lambda image: image * 0 - 1):
        yield


@broken_library(
    "GM934",
    "absolute_checks",
    place=Place("vae", "image"),
    layer="dataset-cache",
    entries=("cogvideo-i2v-image-unnormalised-cached-path",),
    seen_in=_PREPROCESS,
)
@contextmanager
def image_from_0_to_255(copy: Copy) -> Iterator[None]:
    """The image reaches the VAE in 0 to 255 where it must be in -1 to 1."""
    with _image_becomes(lambda image: (image + 1) * 127.5):
        yield


@broken_library(
    "GM934",
    "absolute_checks",
    place=Place("vae", "image"),
    layer=_IMAGE,
    entries=("svd-xtend-pixel-range",),
    seen_in="https://github.com/pixeli99/SVD_Xtend/commit/5d155c1326f1a5db45618054f222c867c59067ef",
)
@contextmanager
def image_from_0_to_1(copy: Copy) -> Iterator[None]:
    """The image reaches the VAE in 0 to 1 where it must be in -1 to 1."""
    with _image_becomes(lambda image: (image + 1) / 2):
        yield


@broken_library(
    "GM934",
    "absolute_checks",
    place=Place("vae", "image"),
    layer=_IMAGE,
    entries=("diffusion-pipe-wan-first-frame-scale",),
    seen_in="https://github.com/tdrussell/diffusion-pipe/commit/8f83dbf25d03219df705570ec03e62be04bc402f",
)
@contextmanager
def image_range_changed_twice(copy: Copy) -> Iterator[None]:
    """The image is brought from [0, 1] to [-1, 1] twice."""
    with _image_becomes(lambda image: image * 2 - 1):
        yield


@contextmanager
def _image_latents_become(copy: Copy, change: Callable[[Any], Any]) -> Iterator[None]:
    """CogVideoX: (batch, frame, channel, height, width), beside the noise in the upper half of the channels."""
    import torch

    only_for(copy, "cogvideox")

    def changed(given: dict[str, Any]) -> dict[str, Any]:
        noise, image = given["hidden_states"].chunk(2, dim=2)
        return given | {"hidden_states": torch.cat([noise, change(image)], dim=2)}

    with denoiser_sees(copy, changed):
        yield


@broken_library("GM970", "absolute_checks", place=Place("transformer", "hidden_states"), layer=_IMAGE)
@contextmanager
def image_latents_at_the_last_frame(copy: Copy) -> Iterator[None]:
    """The image's latents stand beside the noise of the last frame, not the first."""
    with _image_latents_become(copy, lambda image: image.flip(1)):
        yield


@broken_library("GM970", "absolute_checks", place=Place("transformer", "hidden_states"), layer=_IMAGE)
@contextmanager
def image_latents_at_every_frame(copy: Copy) -> Iterator[None]:
    """The image's latents stand beside the noise of every frame, where the model takes them from the first alone."""
    with _image_latents_become(copy, lambda image: image[:, :1].expand_as(image)):
        yield


@broken_library("GM976", "absolute_checks", place=Place("transformer", "hidden_states"), layer=_IMAGE)
@contextmanager
def image_latents_not_scaled(copy: Copy) -> Iterator[None]:
    """The image's latents are not multiplied by the VAE's scaling factor."""
    scaling = float(copy.config("vae").get("scaling_factor", 1.0))
    with _image_latents_become(copy, lambda image: image / scaling):
        yield


@broken_library(
    "GM945",
    "absolute_checks",
    place=Place("unet", "added_time_ids"),
    layer=_IMAGE,
    model="svd",
    entries=("svd-xtend-noise-aug-id",),
    seen_in="https://github.com/pixeli99/SVD_Xtend/commit/29eb24a270700110c8b40cbed1ed1b763421dce7",
)
@contextmanager
def noise_on_the_image_not_told(copy: Copy) -> Iterator[None]:
    """The image gets noise, and the denoiser is told that it got none."""
    only_for(copy, "stable-video-diffusion")

    def make(original: Original) -> Original:
        def ids(self: Any, fps: int, bucket: int, strength: float, *rest: Any, **options: Any) -> Any:
            return original(self, fps, bucket, 0.0, *rest, **options)

        return ids

    with replaced(pipeline_class(copy), "_get_add_time_ids", make):
        yield


@broken_library(
    "GM930",
    "absolute_checks",
    place=Place("transformer", "image_rotary_emb"),
    layer="positional-embedding",
    seen_in="https://github.com/zai-org/CogVideo/commit/2fb763d25f75eed3a02cd95dcfe0015ba5dde390",
)
@contextmanager
def rotary_positions_dropped(copy: Copy) -> Iterator[None]:
    """The rotary tables are not passed on to the denoiser."""
    only_for(copy, "cogvideox")
    with denoiser_sees(copy, lambda given: given | {"image_rotary_emb": None}):
        yield


@broken_library(
    "GM930",
    "absolute_checks",
    place=Place("transformer", "image_rotary_emb"),
    layer="positional-embedding",
    entries=("cogvideo-rope-temporal-patch",),
    seen_in="https://github.com/zai-org/CogVideo/commit/2fb763d25f75eed3a02cd95dcfe0015ba5dde390",
)
@contextmanager
def rotary_positions_stretched_in_time(copy: Copy) -> Iterator[None]:
    """The rotary tables are made for other frames than those that are denoised: each position comes twice."""
    only_for(copy, "cogvideox")

    def make(original: Original) -> Original:
        def tables(self: Any, *arguments: Any, **options: Any) -> Any:
            return tuple(
                table.repeat_interleave(2, dim=0)[: len(table)]
                for table in original(self, *arguments, **options)
            )

        return tables

    with replaced(pipeline_class(copy), "_prepare_rotary_positional_embeddings", make):
        yield


@broken_library(
    "GM930",
    "absolute_checks",
    place=Place("transformer", "audio_rope"),
    layer="positional-embedding",
    model="ltx2-i2v",
)
@contextmanager
def sound_counted_in_frames(copy: Copy) -> Iterator[None]:
    """The positions of the sound are those of the picture's frame rate: the two drift apart."""
    only_for(copy, "ltx2")
    from diffusers.models.transformers.transformer_ltx2 import LTX2AudioVideoRotaryPosEmbed

    def make(original: Original) -> Original:
        return lambda self, *arguments, **options: original(self, *arguments, **options) * 25 / 24

    with replaced(LTX2AudioVideoRotaryPosEmbed, "prepare_audio_coords", make):
        yield


@broken_library(
    "GM912",
    "tensors_matter",
    place=Place("transformer", "patch_embed.pos_embedding"),
    layer="positional-embedding",
    seen_in="https://github.com/zai-org/CogVideo/issues/323",
)
@contextmanager
def learned_positions_not_added(copy: Copy) -> Iterator[None]:
    """The learned position table is loaded, and never read."""
    only_for(copy, "cogvideox")
    if not copy.config(copy.denoiser).get("use_learned_positional_embeddings"):
        copy.does_not_apply("the denoiser learns no positions")
    from diffusers.models.embeddings import CogVideoXPatchEmbed

    def make(original: Original) -> Original:
        def forward(self: Any, text: Any, image: Any) -> Any:
            self.use_learned_positional_embeddings = self.use_positional_embeddings = False
            return original(self, text, image)

        return forward

    with replaced(CogVideoXPatchEmbed, "forward", make):
        yield


@broken_library("GM910", "conditions_matter", place=Place("text_encoder", "prompt"), layer="text-encoder")
@contextmanager
def prompt_is_ignored(copy: Copy) -> Iterator[None]:
    """The text embeddings are zero when they reach the denoiser."""

    def without(given: dict[str, Any]) -> dict[str, Any]:
        text = given.get("encoder_hidden_states")
        return given if text is None else given | {"encoder_hidden_states": text * 0}

    with denoiser_sees(copy, without):
        yield


@broken_library(
    "GM935",
    "absolute_checks",
    place=Place("transformer", "timestep"),
    layer="precision/attention-backend",
    entries=("timestep-rounded-to-bf16",),
    seen_in="https://github.com/huggingface/diffusers/issues/9405",
)
@contextmanager
def timestep_rounded(copy: Copy) -> Iterator[None]:
    """The timestep is rounded to bfloat16 on its way to the denoiser."""
    import torch

    with denoiser_sees(
        copy, lambda given: given | {"timestep": torch.as_tensor(given["timestep"]).bfloat16().float()}
    ):
        yield


@broken_library("GM935", "absolute_checks", place=Place("transformer", "timestep"), layer="scheduler")
@contextmanager
def timestep_from_0_to_1(copy: Copy) -> Iterator[None]:
    """The denoiser is given the timestep as a share of the schedule, not as its number."""
    with denoiser_sees(copy, lambda given: given | {"timestep": given["timestep"] / 1000}):
        yield


@broken_library("GM936", "absolute_checks", place=Place(None, "step 1"), layer="version-skew")
@contextmanager
def guidance_the_wrong_way_round(copy: Copy) -> Iterator[None]:
    """The two halves of classifier-free guidance have changed places: the video flees the prompt."""

    def swapped(given: dict[str, Any]) -> dict[str, Any]:
        text = given.get("encoder_hidden_states")
        if text is None or len(text) != 2:
            return given
        return given | {"encoder_hidden_states": text.flip(0)}

    with denoiser_sees(copy, swapped):
        yield


@broken_library(
    "GM946",
    "absolute_checks",
    place=Place("transformer", "rope"),
    layer="positional-embedding",
    model="wan2.1-i2v",
)
@contextmanager
def rotary_positions_never_applied(copy: Copy) -> Iterator[None]:
    """The attention is given the rotary tables, and turns nothing by them."""
    only_for(copy, "wan")
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    def make(original: Original) -> Original:
        def call(self: Any, attn: Any, hidden: Any, *arguments: Any, **options: Any) -> Any:
            kept = arguments[:2] if len(arguments) > 2 else arguments
            return original(self, attn, hidden, *kept, **options | {"rotary_emb": None})

        return call

    with replaced(WanAttnProcessor, "__call__", make):
        yield
