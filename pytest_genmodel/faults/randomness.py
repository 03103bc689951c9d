"""Faults of randomness: what should follow the seed alone follows something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.library import class_of, denoiser_sees, only_for, pipeline_module
from pytest_genmodel.faults.registry import Place, broken_library
from pytest_genmodel.pipelines.replaced import Original, replaced

_LAYER = "rng/determinism"
_STEP = Place(None, "step 1")
_NOISY = Place("transformer", "hidden_states")


def _draws_in_module(copy: Copy) -> Any:
    module = pipeline_module(copy)
    if not hasattr(module, "randn_tensor"):
        copy.does_not_apply("the pipeline draws its noise elsewhere")
    return module


@broken_library(
    "GM502",
    "seeded_sampling",
    layer=_LAYER,
    place=_STEP,
    entries=("flowmatch-generator-ignored", "comfy-disabled-noise-is-unseeded"),
    seen_in="https://github.com/huggingface/diffusers/pull/13678",
)
@contextmanager
def generator_ignored(copy: Copy) -> Iterator[None]:
    """The initial noise is drawn from the global generator, whatever generator was given."""

    def make(original: Original) -> Original:
        def drawn(shape: Any, generator: Any = None, **options: Any) -> Any:
            return original(shape, generator=None, **options)

        return drawn

    with replaced(_draws_in_module(copy), "randn_tensor", make):
        yield


@broken_library("GM503", "seeded_sampling", layer=_LAYER, place=_STEP)
@contextmanager
def same_noise_for_every_seed(copy: Copy) -> Iterator[None]:
    """The initial noise is drawn with a seed of the library's own: every seed gives the same video."""
    import torch

    def make(original: Original) -> Original:
        def drawn(shape: Any, generator: Any = None, **options: Any) -> Any:
            return original(shape, generator=torch.Generator().manual_seed(0), **options)

        return drawn

    def frozen(original: Original) -> Original:
        def encode(self: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            distribution = getattr(result, "latent_dist", None)
            if distribution is not None:
                distribution.sample = lambda generator=None: distribution.mode()
            return result

        return encode

    with (
        replaced(_draws_in_module(copy), "randn_tensor", make),
        replaced(class_of(copy, "vae"), "encode", frozen),
    ):
        yield


@broken_library(
    "GM502",
    "seeded_sampling",
    layer=_LAYER,
    place=_STEP,
    entries=("comfy-fp8-lora-not-deterministic",),
    seen_in="https://github.com/Comfy-Org/ComfyUI/issues/15365",
)
@contextmanager
def weights_rounded_at_random(copy: Copy) -> Iterator[None]:
    """Weights are rounded anew at each call, by the global generator."""
    import torch

    def make(original: Original) -> Original:
        def forward(self: Any, *arguments: Any, **options: Any) -> Any:
            result = original(self, *arguments, **options)
            first = result[0]
            return (first * (1 + 0.01 * torch.rand_like(first)), *result[1:])

        return forward

    with replaced(class_of(copy, copy.denoiser), "forward", make):
        yield


@broken_library("GM502", "seeded_sampling", layer=_LAYER, place=_STEP)
@contextmanager
def dropout_left_on(copy: Copy) -> Iterator[None]:
    """The text encoder runs in train mode: its dropout draws from the global generator."""

    def make(original: Original) -> Original:
        def forward(self: Any, *arguments: Any, **options: Any) -> Any:
            self.train()
            try:
                return original(self, *arguments, **options)
            finally:
                self.eval()

        return forward

    with replaced(class_of(copy, "text_encoder"), "forward", make):
        yield


@broken_library("GM501", "seeded_sampling", layer=_LAYER, place=_STEP)
@contextmanager
def hook_left_behind(copy: Copy) -> Iterator[None]:
    """A hook of an earlier call is still there: each call of the denoiser is a little off the one before."""
    calls = [0]

    def make(original: Original) -> Original:
        def forward(self: Any, *arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            result = original(self, *arguments, **options)
            return (result[0] * (1 + 1e-3 * calls[0]), *result[1:])

        return forward

    with replaced(class_of(copy, copy.denoiser), "forward", make):
        yield


@contextmanager
def _noise_becomes(copy: Copy, change: Callable[[Any], Any]) -> Iterator[None]:
    """The pipeline's own draws: that of the VAE's posterior is none of them."""

    def make(original: Original) -> Original:
        return lambda *arguments, **options: change(original(*arguments, **options))

    with replaced(_draws_in_module(copy), "randn_tensor", make):
        yield


@broken_library("GM971", "absolute_checks", layer=_LAYER, place=_NOISY)
@contextmanager
def initial_noise_scaled(copy: Copy) -> Iterator[None]:
    """The initial noise is nine tenths of what was drawn: the video is flat."""
    with _noise_becomes(copy, lambda noise: noise * 0.9):
        yield


@broken_library("GM971", "absolute_checks", layer=_LAYER, place=_NOISY)
@contextmanager
def initial_noise_with_a_mean(copy: Copy) -> Iterator[None]:
    """An offset that was meant for training is added to the initial noise."""
    with _noise_becomes(copy, lambda noise: noise + 0.1):
        yield


@broken_library("GM972", "absolute_checks", layer=_LAYER, place=_NOISY)
@contextmanager
def same_noise_in_each_frame(copy: Copy) -> Iterator[None]:
    """One latent frame of noise is drawn, and stands in all of them."""
    axes = copy.family.latent_axes
    if "frame" not in axes:
        copy.does_not_apply("the latents have no axis of frames")
    axis = axes.index("frame")
    with _noise_becomes(copy, lambda noise: noise.narrow(axis, 0, 1).expand_as(noise).clone()):
        yield


@broken_library("GM973", "absolute_checks", layer=_LAYER, place=_NOISY)
@contextmanager
def initial_noise_of_one_seed(copy: Copy) -> Iterator[None]:
    """The initial noise is drawn with a seed of the library's own, and the image's latents with the one given."""
    import torch

    def make(original: Original) -> Original:
        def drawn(shape: Any, generator: Any = None, **options: Any) -> Any:
            return original(shape, generator=torch.Generator().manual_seed(0), **options)

        return drawn

    with replaced(_draws_in_module(copy), "randn_tensor", make):
        yield


@broken_library("GM977", "absolute_checks", layer=_LAYER, place=_NOISY)
@contextmanager
def noise_of_its_own_in_each_half(copy: Copy) -> Iterator[None]:
    """The halves of guidance are given latents of different noise: they no longer differ by the prompt alone."""
    only_for(copy, "cogvideox")

    def changed(given: dict[str, Any]) -> dict[str, Any]:
        latents = given["hidden_states"].clone()
        if len(latents) == 2:
            latents[0, :, : latents.shape[2] // 2] = latents[1, :, : latents.shape[2] // 2].flip(-1)
        return given | {"hidden_states": latents}

    with denoiser_sees(copy, changed):
        yield
