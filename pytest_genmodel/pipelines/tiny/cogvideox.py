"""CogVideoX image-to-video, small enough to build in a blink: the layouts of 5B-I2V, of 2B, and of 1.5.

5B-I2V has rotary and learned positions together, 2B sines alone, 1.5 rotary positions alone, patches in time, and
the strength of the image (`ofs`) as a condition. All have a T5 encoder, the causal 3D autoencoder, image latents
joined to the noise by channel, and a scheduler of their own. Only the sizes are small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .encoders import t5_encoder
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


def scheduler(*, snr_shift_scale: float = 1.0) -> Any:
    """Return the scheduler of CogVideoX (v-prediction, zero terminal SNR, trailing steps); 2B has the shift 3."""
    from diffusers import CogVideoXDDIMScheduler

    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        snr_shift_scale=snr_shift_scale,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def build_random() -> Any:
    """Return a CogVideoXImageToVideoPipeline in the layout of 5B-I2V; see `_assembled`."""
    return _assembled(SEED, _with_learned_positions, scheduler())


def build_2b() -> Any:
    """Return a CogVideoXImageToVideoPipeline in the layout of 2B: positions are sines, and no file holds them."""
    return _assembled(SEED + 1, _transformer, scheduler(snr_shift_scale=3.0))


def build_1_5() -> Any:
    """Return a CogVideoXImageToVideoPipeline in the layout of 1.5-5B-I2V: two latent frames in a patch."""

    def transformer() -> Any:
        return _transformer(
            use_rotary_positional_embeddings=True, patch_size_t=2, ofs_embed_dim=8, patch_bias=False
        )

    return _assembled(SEED + 2, transformer, scheduler(), invert_scale_latents=True)


def _assembled(seed: int, transformer: Callable[[], Any], scheduler: Any, **autoencoder: Any) -> Any:
    """Return a pipeline with seeded random weights: float32, eval mode, on the CPU.

    It samples 16 x 16 pixels and 9 frames (latents 1 x 3 x 4 x 2 x 2) and needs ``max_sequence_length=16`` in
    the call, as it has 16 text positions. Equal in every process; the caller's random state is left alone.
    """
    from diffusers import CogVideoXImageToVideoPipeline

    tokenizer = t5_tokenizer(WORDS, max_length=TEXT_LENGTH)
    with seeded(seed):
        modules = {
            "text_encoder": t5_encoder(len(tokenizer)),
            "vae": _vae(**autoencoder),
            "transformer": transformer(),
        }
        for module in modules.values():
            wake(module)
            module.eval()
    return CogVideoXImageToVideoPipeline(tokenizer=tokenizer, scheduler=scheduler, **modules)


def _vae(**arguments: Any) -> Any:
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
        **arguments,
    )


def _transformer(**arguments: Any) -> Any:
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel(
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
        **arguments,
    )


def _with_learned_positions() -> Any:
    import torch

    transformer = _transformer(use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True)
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
    TinyPipeline(
        name="cogvideox-2b-i2v",
        summary="CogVideoX image-to-video, 2B layout (sine positions), random weights, 16 x 16 pixels, 9 frames",
        build=build_2b,
    ),
    TinyPipeline(
        name="cogvideox1.5-i2v",
        summary="CogVideoX 1.5 image-to-video, patches in time, random weights, 16 x 16 pixels, 9 frames",
        build=build_1_5,
    ),
)
