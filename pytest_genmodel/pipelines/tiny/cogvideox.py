"""CogVideoX image-to-video, small enough to build in a blink.

The architecture is that of CogVideoX-5b-I2V: rotary and learned positions together, a T5 encoder, the causal
3D autoencoder, image latents joined to the noise by channel, and its scheduler. Only the sizes are small.
"""

from __future__ import annotations

from typing import Any

from .registry import TinyPipeline
from .tokenizers import t5_tokenizer
from .weights import seeded, wake

TEXT_LENGTH = 16
FRAMES = 9
LATENT_SIDE = 2
SEED = 20240807

WORDS = (
    *("a", "an", "the", "of", "and", "on", "in", "over", "with", "to", "is"),
    *("red", "green", "blue", "yellow", "magenta", "cyan", "white", "black"),
    *("circle", "square", "triangle", "cat", "dog", "car", "boat", "ball", "panda", "video"),
    *("moves", "walks", "runs", "turns", "plays", "left", "right", "up", "down", "slowly", "blurry"),
)


def scheduler() -> Any:
    """Return the scheduler of CogVideoX-5b-I2V (v-prediction, zero terminal SNR, trailing steps)."""
    from diffusers import CogVideoXDDIMScheduler

    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def build_random() -> Any:
    """Return a CogVideoXImageToVideoPipeline with seeded random weights: float32, eval mode, on the CPU.

    It samples 16 x 16 pixels and 9 frames (latents 1 x 3 x 4 x 2 x 2) and needs ``max_sequence_length=16`` in
    the call, as it has 16 text positions. Equal in every process; the caller's random state is left alone.
    """
    from diffusers import CogVideoXImageToVideoPipeline

    tokenizer = t5_tokenizer(WORDS, max_length=TEXT_LENGTH)
    with seeded(SEED):
        modules = {
            "text_encoder": _text_encoder(len(tokenizer)),
            "vae": _vae(),
            "transformer": _transformer(),
        }
        for module in modules.values():
            wake(module)
            module.eval()
    return CogVideoXImageToVideoPipeline(tokenizer=tokenizer, scheduler=scheduler(), **modules)


def _text_encoder(vocabulary: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )


def _vae() -> Any:
    from diffusers import AutoencoderKLCogVideoX

    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=16,
        sample_width=16,
        scaling_factor=0.7,
    )


def _transformer() -> Any:
    import torch
    from diffusers import CogVideoXTransformer3DModel

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=2,
        sample_width=LATENT_SIDE,
        sample_height=LATENT_SIDE,
        sample_frames=FRAMES,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=TEXT_LENGTH,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )
    # The constructor fills the table with sines (float64). A learned table is not sines: were it one, a table
    # rebuilt from the configuration instead of read from the file would go unseen.
    table = transformer.patch_embed.pos_embedding
    transformer.patch_embed.pos_embedding = torch.randn(table.shape, dtype=torch.float32) * 0.5
    return transformer


PIPELINES = (
    TinyPipeline(
        name="cogvideox-i2v",
        summary="CogVideoX image-to-video, 5B-I2V layout, random weights, 16 x 16 pixels, 9 frames",
        build=build_random,
    ),
)
