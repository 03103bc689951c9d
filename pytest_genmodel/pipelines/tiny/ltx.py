"""LTX-Video image-to-video in small sizes.

The layout is that of LTX-Video 0.9: a T5 encoder, RMS norms across heads, positions from coordinates, packed latents,
the image in the first latent frame. Only the sizes are small.
"""

from __future__ import annotations

from typing import Any

from .cogvideox import WORDS
from .encoders import T5_WIDTH, t5_encoder
from .registry import TinyPipeline
from .tokenizers import t5_tokenizer
from .weights import give_statistics, seeded, wake

TEXT_LENGTH = 128
LATENT_CHANNELS = 8
SEED = 20241122
PROBE = {"height": 32, "width": 32, "frames": 9}


def scheduler() -> Any:
    """Return the scheduler of LTX-Video and LTX-2: flow matching, shifted by the number of tokens."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_image_seq_len=1024,
        base_shift=0.95,
        max_image_seq_len=4096,
        max_shift=2.05,
        shift_terminal=0.1,
    )


def build_image_to_video() -> Any:
    """Return an LTXImageToVideoPipeline with seeded random weights: float32, eval mode, on the CPU.

    It samples 32 x 32 pixels and 4k + 1 frames: latents of 2 x 2 for each fourth frame, packed into tokens. Equal in
    every process; the caller's random state is left alone.
    """
    from diffusers import LTXImageToVideoPipeline

    return LTXImageToVideoPipeline(scheduler=scheduler(), **_parts(SEED))


def build_condition() -> Any:
    """Return an LTXConditionPipeline, as `build_image_to_video`; its scheduler takes the pipeline's own timesteps."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXConditionPipeline

    return LTXConditionPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **_parts(SEED + 1))


def _parts(seed: int) -> dict[str, Any]:
    tokenizer = t5_tokenizer(WORDS, max_length=TEXT_LENGTH)
    with seeded(seed):
        modules = {"text_encoder": t5_encoder(len(tokenizer)), "vae": _vae(), "transformer": _transformer()}
        for module in modules.values():
            wake(module)
            module.eval()
    return {"tokenizer": tokenizer, **modules}


def _vae() -> Any:
    from diffusers import AutoencoderKLLTXVideo

    vae = AutoencoderKLLTXVideo(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
    )
    give_statistics(vae)
    return vae


def _transformer() -> Any:
    from diffusers import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=T5_WIDTH,
    )


PIPELINES = (
    TinyPipeline(
        name="ltx-i2v",
        summary="LTX-Video image-to-video, 0.9 layout, random weights, 32 x 32 pixels",
        build=build_image_to_video,
        probe=PROBE,
    ),
    TinyPipeline(
        name="ltx-condition",
        summary="LTX-Video with conditions at any frame, random weights, 32 x 32 pixels",
        build=build_condition,
        probe=PROBE,
    ),
)
