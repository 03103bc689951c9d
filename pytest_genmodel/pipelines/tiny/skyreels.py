"""SkyReels-V2 image-to-video in small sizes: the layout of Wan 2.1, and diffusion forcing with a timestep a frame."""

from __future__ import annotations

from typing import Any

from .registry import TinyPipeline
from .wan import LATENT_CHANNELS, PROBE, assemble, flow_scheduler, image_encoder, transformer_sizes
from .weights import seeded

SEED = 20250421


def build_i2v() -> Any:
    """Return a SkyReelsV2ImageToVideoPipeline in the layout of SkyReels-V2-I2V-14B; see `wan.assemble`."""
    with seeded(SEED):
        parts = {
            "image_encoder": image_encoder(projected=True),
            "transformer": _transformer(image_tokens=True),
        }
        return assemble("SkyReelsV2ImageToVideoPipeline", parts, scheduler=flow_scheduler(3.0))


def build_forcing() -> Any:
    """Return a SkyReelsV2DiffusionForcingImageToVideoPipeline: the image is frame 0, the frame rate a condition."""
    with seeded(SEED + 1):
        parts = {"transformer": _transformer(in_channels=LATENT_CHANNELS, inject_sample_info=True)}
        return assemble(
            "SkyReelsV2DiffusionForcingImageToVideoPipeline", parts, scheduler=flow_scheduler(5.0)
        )


def _transformer(**arguments: Any) -> Any:
    from diffusers import SkyReelsV2Transformer3DModel

    return SkyReelsV2Transformer3DModel(**transformer_sizes(**arguments))


PIPELINES = (
    TinyPipeline(
        name="skyreels-v2-i2v",
        summary="SkyReels-V2 image-to-video, 14B layout with CLIP tokens, random weights, 16 x 16 pixels, 9 frames",
        build=build_i2v,
        probe=PROBE,
    ),
    TinyPipeline(
        name="skyreels-v2-df-i2v",
        summary="SkyReels-V2 image-to-video by diffusion forcing, random weights, 16 x 16 pixels, 9 frames",
        build=build_forcing,
        probe=PROBE,
    ),
)
