"""Stable Video Diffusion in small sizes: a spatio-temporal UNet, an image and nothing else to condition it.

The layout is that of stable-video-diffusion-img2vid: CLIP image embedding as the only context, the image's latents
beside the noise of each frame, a decoder that looks along time, EDM noise levels with v-prediction. Only the sizes
are small, as far as the classes let them be: the UNet normalises in 32 groups, the pipeline resizes to 224 pixels.
"""

from __future__ import annotations

from typing import Any

from .encoders import clip_image_encoder, clip_image_processor
from .registry import TinyPipeline
from .weights import seeded, wake

FRAMES = 5
LATENT_SIDE = 4
CONTEXT_WIDTH = 8
SEED = 20231121
PROBE = {"height": 32, "width": 32}


def build() -> Any:
    """Return a StableVideoDiffusionPipeline with seeded random weights: float32, eval mode, on the CPU.

    It samples 32 x 32 pixels and 2 frames or more (latents 1 x frames x 4 x 4 x 4). Equal in every process; the
    caller's random state is left alone.
    """
    from diffusers import StableVideoDiffusionPipeline

    with seeded(SEED):
        modules = {
            "image_encoder": clip_image_encoder(
                image_size=224, patch_size=56, width=16, projection=CONTEXT_WIDTH
            ),
            "vae": _vae(),
            "unet": _unet(),
        }
        for module in modules.values():
            wake(module)
            module.eval()
    return StableVideoDiffusionPipeline(
        scheduler=_scheduler(), feature_extractor=clip_image_processor(224), **modules
    )


def _scheduler() -> Any:
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_min=0.002,
        sigma_max=700.0,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )


def _vae() -> Any:
    from diffusers import AutoencoderKLTemporalDecoder

    return AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        layers_per_block=1,
        sample_size=8 * LATENT_SIDE,
    )


def _unet() -> Any:
    from diffusers import UNetSpatioTemporalConditionModel

    return UNetSpatioTemporalConditionModel(
        sample_size=LATENT_SIDE,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 32),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=CONTEXT_WIDTH,
        num_attention_heads=2,
        num_frames=FRAMES,
    )


PIPELINES = (
    TinyPipeline(
        name="svd",
        summary="Stable Video Diffusion (UNet, image only), random weights, 32 x 32 pixels, 5 frames",
        build=build,
        probe=PROBE,
    ),
)
