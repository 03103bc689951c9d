"""I2VGen-XL in small sizes: a UNet over frames, the image in three places, text beside it.

The layout is that of i2vgen-xl: CLIP text and CLIP image embeddings joined into one context, the image's latents as
an input of their own, frames a second, a DDIM schedule with v-prediction. Only the sizes are small.
"""

from __future__ import annotations

from typing import Any

from .cogvideox import WORDS
from .encoders import clip_image_encoder, clip_image_processor, clip_text_encoder
from .registry import TinyPipeline
from .tokenizers_bpe import clip_tokenizer
from .weights import seeded, wake

IMAGE_SIDE = 32
CONTEXT_WIDTH = 16
SEED = 20231107
PROBE = {"height": 32, "width": 32, "frames": 5}


def build() -> Any:
    """Return an I2VGenXLPipeline with seeded random weights: float32, eval mode, on the CPU.

    It samples 32 x 32 pixels and any number of frames. Equal in every process; the caller's random state is left
    alone.
    """
    from diffusers import I2VGenXLPipeline

    tokenizer = clip_tokenizer(WORDS)
    with seeded(SEED):
        modules = {
            "text_encoder": clip_text_encoder(tokenizer, width=CONTEXT_WIDTH),
            "image_encoder": clip_image_encoder(
                image_size=IMAGE_SIDE, patch_size=16, width=16, projection=CONTEXT_WIDTH
            ),
            "vae": _vae(),
            "unet": _unet(),
        }
        for module in modules.values():
            wake(module)
            module.eval()
    return I2VGenXLPipeline(
        tokenizer=tokenizer,
        feature_extractor=clip_image_processor(IMAGE_SIDE),
        scheduler=_scheduler(),
        **modules,
    )


def _scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="leading",
    )


def _vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=IMAGE_SIDE,
    )


def _unet() -> Any:
    from diffusers import I2VGenXLUNet

    return I2VGenXLUNet(
        sample_size=IMAGE_SIDE // 8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=CONTEXT_WIDTH,
        attention_head_dim=4,
    )


PIPELINES = (
    TinyPipeline(
        name="i2vgen-xl",
        summary="I2VGen-XL (UNet, image and text), random weights, 32 x 32 pixels",
        build=build,
        probe=PROBE,
    ),
)
