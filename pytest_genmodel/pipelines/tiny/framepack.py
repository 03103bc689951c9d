"""FramePack in small sizes: HunyuanVideo that makes a clip section by section, with what came before as clean tokens.

The layout is that of FramePackI2V_HY: text as in HunyuanVideo, SigLIP's tokens of the image, the image's latent and a
history in three resolutions beside the noise. Only the sizes are small.
"""

from __future__ import annotations

from typing import Any

from . import hunyuan
from .encoders import clip_text_encoder
from .registry import TinyPipeline

IMAGE_SIDE = 16
IMAGE_WIDTH = 8
SEED = 20250417


def build() -> Any:
    """Return a HunyuanVideoFramepackPipeline with seeded random weights: float32, eval mode, on the CPU.

    It samples 32 x 32 pixels. Equal in every process; the caller's random state is left alone.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoFramepackPipeline
    from transformers import SiglipImageProcessor

    tokenizer, tokenizer_2 = hunyuan.tokenizers()
    parts = hunyuan.modules(
        SEED,
        text_encoder=lambda: hunyuan.llama(len(tokenizer)),
        text_encoder_2=lambda: clip_text_encoder(tokenizer_2, width=hunyuan.POOLED_WIDTH),
        image_encoder=_image_encoder,
        vae=hunyuan.autoencoder,
        transformer=_transformer,
    )
    return HunyuanVideoFramepackPipeline(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        feature_extractor=SiglipImageProcessor(size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}),
        **parts,
    )


def _image_encoder() -> Any:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(
        SiglipVisionConfig(
            image_size=IMAGE_SIDE,
            patch_size=8,
            hidden_size=IMAGE_WIDTH,
            intermediate_size=2 * IMAGE_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    )


def _transformer() -> Any:
    from diffusers import HunyuanVideoFramepackTransformer3DModel

    return HunyuanVideoFramepackTransformer3DModel(
        in_channels=hunyuan.LATENT_CHANNELS,
        out_channels=hunyuan.LATENT_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=hunyuan.LANGUAGE_WIDTH,
        pooled_projection_dim=hunyuan.POOLED_WIDTH,
        rope_axes_dim=(4, 6, 6),
        has_image_proj=True,
        image_proj_dim=IMAGE_WIDTH,
        has_clean_x_embedder=True,
    )


PIPELINES = (
    TinyPipeline(
        name="hunyuan-framepack",
        summary="FramePack (HunyuanVideo in sections, with a history), random weights, 32 x 32 pixels",
        build=build,
        probe={"height": 32, "width": 32, "frames": 9},
    ),
)
