"""Sana-Video image-to-video in small sizes: linear attention, Gemma's text behind a long instruction.

The layout is that of SANA-Video-2B: a Gemma 2 text encoder, Wan's autoencoder, the image in the first latent frame,
with a timestep for each token. Only the sizes are small.
"""

from __future__ import annotations

from typing import Any

from .cogvideox import WORDS
from .registry import TinyPipeline
from .tokenizers_bpe import gemma_tokenizer
from .weights import seeded, wake

TEXT_LENGTH = 4096
TEXT_WIDTH = 16
LATENT_CHANNELS = 16
SEED = 20250929


def build() -> Any:
    """Return a SanaImageToVideoPipeline with seeded random weights: float32, eval mode, on the CPU.

    It samples 32 x 32 pixels and 4k + 1 frames. Equal in every process; the caller's random state is left alone.
    """
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, SanaImageToVideoPipeline

    tokenizer = gemma_tokenizer((*WORDS, *(f"▁{word}" for word in WORDS), "\n\n"), max_length=TEXT_LENGTH)
    with seeded(SEED):
        modules = {
            "text_encoder": _text_encoder(len(tokenizer)),
            "vae": AutoencoderKLWan(
                base_dim=4, z_dim=LATENT_CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1
            ),
            "transformer": _transformer(),
        }
        for module in modules.values():
            wake(module)
            module.eval()
    return SanaImageToVideoPipeline(
        tokenizer=tokenizer, scheduler=FlowMatchEulerDiscreteScheduler(shift=8.0), **modules
    )


def _text_encoder(vocabulary: int) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            query_pre_attn_scalar=8,
            max_position_embeddings=TEXT_LENGTH,
        )
    )


def _transformer() -> Any:
    from diffusers import SanaVideoTransformer3DModel

    return SanaVideoTransformer3DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=TEXT_WIDTH,
        qk_norm="rms_norm_across_heads",
    )


PIPELINES = (
    TinyPipeline(
        name="sana-video-i2v",
        summary="Sana-Video image-to-video (linear attention, Gemma text), random weights, 32 x 32 pixels",
        build=build,
        probe={"height": 32, "width": 32, "frames": 9},
    ),
)
