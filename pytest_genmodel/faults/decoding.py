"""Faults of a library between latents and frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.library import class_of, only_for, pipeline_class
from pytest_genmodel.faults.registry import Place, broken_library
from pytest_genmodel.pipelines.replaced import Original, replaced


@broken_library(
    "GM944",
    "absolute_checks",
    place=Place("vae", "frame 9"),
    layer="vae",
    entries=("comfy-wan-vae-colour-drift",),
    seen_in="https://github.com/Comfy-Org/ComfyUI/issues/13090",
)
@contextmanager
def cache_between_chunks_lost(copy: Copy) -> Iterator[None]:
    """The decoder forgets what it kept of one chunk of frames when it decodes the next."""
    only_for(copy, "cogvideox")
    from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXDecoder3D

    def make(original: Original) -> Original:
        def forward(self: Any, sample: Any, temb: Any = None, conv_cache: Any = None) -> Any:
            return original(self, sample, temb, None)

        return forward

    with replaced(CogVideoXDecoder3D, "forward", make):
        yield


@broken_library(
    "GM937",
    "absolute_checks",
    place=Place("vae", "latents"),
    layer="vae",
    seen_in="https://github.com/huggingface/finetrainers/issues/168",
)
@contextmanager
def latents_scaled_the_wrong_way(copy: Copy) -> Iterator[None]:
    """Latents are multiplied by the scaling factor before decoding where they must be divided."""
    only_for(copy, "cogvideox")

    def make(original: Original) -> Original:
        def decode_latents(self: Any, latents: Any) -> Any:
            return original(self, latents * self.vae_scaling_factor_image**2)

        return decode_latents

    with replaced(pipeline_class(copy), "decode_latents", make):
        yield


@broken_library("GM613", "neutral_transformations", layer="vae", place=Place("vae", "tiled_decode"))
@contextmanager
def tiles_do_not_fit(copy: Copy) -> Iterator[None]:
    """Decoding in tiles leaves a seam: the right half is brighter than the left one."""
    cls = class_of(copy, "vae")
    if not hasattr(cls, "tiled_decode"):
        copy.does_not_apply("the VAE decodes in one piece only")

    def make(original: Original) -> Original:
        def tiled_decode(self: Any, latents: Any, return_dict: bool = True) -> Any:
            result = original(self, latents, return_dict=return_dict)
            sample = result.sample if return_dict else result[0]
            sample[..., sample.shape[-1] // 2 :] += 0.3
            return result

        return tiled_decode

    with replaced(cls, "tiled_decode", make):
        yield


@broken_library("GM938", "absolute_checks", place=Place("vae", "frame 0"), layer="image-conditioning")
@contextmanager
def frames_in_reverse(copy: Copy) -> Iterator[None]:
    """The decoded frames come out in reverse: the image given is the last one."""

    def make(original: Original) -> Original:
        def decode(self: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            if hasattr(result, "sample"):
                result.sample = result.sample.flip(2)
                return result
            return (result[0].flip(2), *result[1:])

        return decode

    with replaced(class_of(copy, "vae"), "decode", make):
        yield


@broken_library("GM938", "absolute_checks", place=Place("vae", "frame 0"), layer="vae")
@contextmanager
def every_frame_is_the_first(copy: Copy) -> Iterator[None]:
    """The decoder repeats its first frame: the video stands still."""

    def make(original: Original) -> Original:
        def decode(self: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            if hasattr(result, "sample"):
                result.sample = result.sample[:, :, :1].expand_as(result.sample).clone()
                return result
            return (result[0][:, :, :1].expand_as(result[0]).clone(), *result[1:])

        return decode

    with replaced(class_of(copy, "vae"), "decode", make):
        yield


@broken_library("GM505", "seeded_sampling", layer="precision/attention-backend", place=Place(None, "frame 0"))
@contextmanager
def black_frames(copy: Copy) -> Iterator[None]:
    """A kernel gives zeros, and every frame is black."""

    def make(original: Original) -> Original:
        def decode(self: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            if hasattr(result, "sample"):
                result.sample = result.sample * 0 - 1
                return result
            return (result[0] * 0 - 1, *result[1:])

        return decode

    with replaced(class_of(copy, "vae"), "decode", make):
        yield


@broken_library(
    "GM942",
    "sound_autoencoder",
    layer="vae",
    model="cogvideox-i2v-trained",
    place=Place("vae", "vae.decode"),
)
@contextmanager
def colours_exchanged(copy: Copy) -> Iterator[None]:
    """The decoder gives blue, green and red where red, green and blue are meant."""
    with _decoded_becomes(copy, lambda video: video.flip(1)):
        yield


@broken_library(
    "GM942",
    "sound_autoencoder",
    layer="vae",
    model="cogvideox-i2v-trained",
    place=Place("vae", "vae.decode"),
)
@contextmanager
def decoded_to_0_to_1(copy: Copy) -> Iterator[None]:
    """The decoder gives 0 to 1 where everyone takes it to give -1 to 1: the video is pale and has no black."""
    with _decoded_becomes(copy, lambda video: (video + 1) / 2):
        yield


@contextmanager
def _decoded_becomes(copy: Copy, change: Callable[[Any], Any]) -> Iterator[None]:
    def make(original: Original) -> Original:
        def decode(self: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            if hasattr(result, "sample"):
                result.sample = change(result.sample)
                return result
            return (change(result[0]), *result[1:])

        return decode

    with replaced(class_of(copy, "vae"), "decode", make):
        yield


@contextmanager
def _frames_become(change: Callable[[Any], Any]) -> Iterator[None]:
    """What every pipeline makes of the decoder's (batch, channel, frame, height, width), changed before it does."""
    from diffusers.video_processor import VideoProcessor

    def make(original: Original) -> Original:
        return lambda self, video, *arguments, **options: original(self, change(video), *arguments, **options)

    with replaced(VideoProcessor, "postprocess_video", make):
        yield


@broken_library("GM975", "absolute_checks", place=Place(None, "frame 0"), layer="vae")
@contextmanager
def frames_moved_by_one(copy: Copy) -> Iterator[None]:
    """The first decoded frame is left out, and the last one comes twice."""
    import torch

    with _frames_become(lambda video: torch.cat([video[:, :, 1:], video[:, :, -1:]], 2)):
        yield


@broken_library("GM975", "absolute_checks", place=Place(None, "frame 0"), layer="vae")
@contextmanager
def frames_in_blue_green_red(copy: Copy) -> Iterator[None]:
    """The frames are handed over in the order of colours that OpenCV has."""
    with _frames_become(lambda video: video.flip(1)):
        yield


@broken_library("GM975", "absolute_checks", place=Place(None, "frame 0"), layer="vae")
@contextmanager
def frames_clipped_twice(copy: Copy) -> Iterator[None]:
    """What was decoded to -1 to 1 is clipped to 0 to 1 before it is brought there: nothing is darker than grey."""
    with _frames_become(lambda video: video.clamp(0, 1)):
        yield
