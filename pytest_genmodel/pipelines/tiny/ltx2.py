"""LTX-2 image-to-video in small sizes: video and sound from one transformer.

The layout is that of LTX-2.0: a Gemma 3 text encoder of which every layer is read, connectors with learned registers
between text and transformer, an autoencoder each for pictures and for mel spectrograms, a vocoder. Only the sizes are
small.
"""

from __future__ import annotations

from typing import Any

from .cogvideox import WORDS
from .ltx import scheduler
from .registry import TinyPipeline
from .tokenizers_bpe import gemma_tokenizer
from .weights import give_statistics, seeded, wake

TEXT_LENGTH = 1024
"""What the call pads a prompt to."""
TEXT_WIDTH = 16
TEXT_LAYERS = 2
LATENT_CHANNELS = 8
AUDIO_CHANNELS = 4
MEL_BINS = 16
SEED = 20260106


def build() -> Any:
    """Return an LTX2ImageToVideoPipeline with seeded random weights: float32, eval mode, on the CPU.

    It samples multiples of 32 pixels and 4k + 1 frames, with sound. Equal in every process; the caller's random state
    is left alone.
    """
    from diffusers import LTX2ImageToVideoPipeline

    words = (*WORDS, *(f"▁{word}" for word in WORDS))
    tokenizer = gemma_tokenizer(words, max_length=TEXT_LENGTH, padding_side="left")
    with seeded(SEED):
        modules = {
            "text_encoder": _text_encoder(len(tokenizer)),
            "connectors": _connectors(),
            "vae": _vae(),
            "audio_vae": _audio_vae(),
            "transformer": _transformer(),
            "vocoder": _vocoder(),
        }
        for module in modules.values():
            wake(module)
            module.eval()
    return LTX2ImageToVideoPipeline(scheduler=scheduler(), tokenizer=tokenizer, **modules)


def _text_encoder(vocabulary: int) -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config={
                "vocab_size": vocabulary,
                "hidden_size": TEXT_WIDTH,
                "intermediate_size": 32,
                "num_hidden_layers": TEXT_LAYERS,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "query_pre_attn_scalar": 8,
                "max_position_embeddings": TEXT_LENGTH,
            },
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            mm_tokens_per_image=4,
            image_token_index=3,
            boi_token_index=1,
            eoi_token_index=1,
        )
    )


def _connectors() -> Any:
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    return LTX2TextConnectors(
        caption_channels=TEXT_WIDTH,
        text_proj_in_factor=TEXT_LAYERS + 1,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=16,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=16,
    )


def _vae() -> Any:
    from diffusers import AutoencoderKLLTX2Video

    vae = AutoencoderKLLTX2Video(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(8, 8),
        down_block_types=("LTX2VideoDownBlock3D", "LTX2VideoDownBlock3D"),
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False, False, False),
        downsample_type=("spatiotemporal", "spatiotemporal"),
        upsample_type=("spatiotemporal", "spatiotemporal"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
    )
    give_statistics(vae)
    return vae


def _audio_vae() -> Any:
    from diffusers import AutoencoderKLLTX2Audio

    vae = AutoencoderKLLTX2Audio(
        base_channels=AUDIO_CHANNELS * MEL_BINS // 4,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        resolution=32,
        latent_channels=AUDIO_CHANNELS,
        mel_bins=MEL_BINS,
    )
    give_statistics(vae)
    return vae


def _transformer() -> Any:
    from diffusers import LTX2VideoTransformer3DModel

    return LTX2VideoTransformer3DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        vae_scale_factors=(4, 16, 16),
        audio_in_channels=AUDIO_CHANNELS * MEL_BINS // 4,
        audio_out_channels=AUDIO_CHANNELS * MEL_BINS // 4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=2,
        caption_channels=TEXT_WIDTH,
    )


def _vocoder() -> Any:
    from diffusers.pipelines.ltx2 import LTX2Vocoder

    return LTX2Vocoder(
        in_channels=2 * MEL_BINS,
        hidden_channels=8,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3]],
    )


PIPELINES = (
    TinyPipeline(
        name="ltx2-i2v",
        summary="LTX-2 image-to-video with sound, 2.0 layout, random weights, 32 x 32 pixels",
        build=build,
        probe={"height": 32, "width": 32, "frames": 9},
    ),
)
