"""Wan image-to-video in small sizes: 2.1 (CLIP tokens), 2.2 A14B (two experts), 2.2 TI2V-5B, first and last frame.

A UMT5 encoder, the causal 3D autoencoder with its per-channel normalisation, flow matching. Only the sizes are small.
The text is 512 tokens long in all of them: the transformer takes what lies behind the 512th for image tokens.
"""

from __future__ import annotations

from typing import Any

from .cogvideox import WORDS
from .registry import TinyPipeline
from .tokenizers import t5_tokenizer
from .weights import seeded, wake

TEXT_LENGTH = 512
TEXT_WIDTH = 32
IMAGE_WIDTH = 8
IMAGE_SIDE = 16
LATENT_CHANNELS = 16
SEED = 20250225
PROBE = {"height": 16, "width": 16, "frames": 9, "guidance": 5.0}


def build_i2v() -> Any:
    """Return a WanImageToVideoPipeline in the layout of Wan2.1-I2V-14B; see `assemble`."""
    with seeded(SEED):
        parts = {"image_encoder": image_encoder(), "transformer": transformer(image_tokens=True)}
        return assemble("WanImageToVideoPipeline", parts, scheduler=flow_scheduler(3.0))


def build_first_last() -> Any:
    """Return a WanImageToVideoPipeline in the layout of Wan2.1-FLF2V-14B: two images, one position table for both."""
    tokens = 2 * ((IMAGE_SIDE // 8) ** 2 + 1)
    with seeded(SEED + 1):
        parts = {
            "image_encoder": image_encoder(),
            "transformer": transformer(image_tokens=True, pos_embed_seq_len=tokens),
        }
        return assemble("WanImageToVideoPipeline", parts, scheduler=flow_scheduler(5.0))


def build_two_experts() -> Any:
    """Return a WanImageToVideoPipeline in the layout of Wan2.2-I2V-A14B: an expert for much noise, one for little."""
    with seeded(SEED + 2):
        parts = {"transformer": transformer(), "transformer_2": transformer()}
        return assemble("WanImageToVideoPipeline", parts, scheduler=flow_scheduler(3.0), boundary_ratio=0.9)


def build_expanded() -> Any:
    """Return a WanImageToVideoPipeline in the layout of Wan2.2-TI2V-5B: the image in frame 0, a timestep a token."""
    channels = 48
    with seeded(SEED + 3):
        parts = {"transformer": transformer(in_channels=channels, out_channels=channels)}
        return assemble(
            "WanImageToVideoPipeline",
            parts,
            autoencoder=residual_autoencoder(channels),
            scheduler=flow_scheduler(5.0),
            expand_timesteps=True,
        )


def build_chronoedit() -> Any:
    """Return a ChronoEditPipeline: Wan 2.1 with positions that leap in time; it makes five frames."""
    from diffusers import ChronoEditTransformer3DModel

    with seeded(SEED + 4):
        parts = {
            "image_encoder": image_encoder(),
            "transformer": ChronoEditTransformer3DModel(**transformer_sizes(image_tokens=True)),
        }
        return assemble("ChronoEditPipeline", parts, scheduler=flow_scheduler(3.0))


def assemble(
    pipeline_class: str,
    parts: dict[str, Any],
    *,
    scheduler: Any,
    autoencoder: Any = None,
    **arguments: Any,
) -> Any:
    """Return a pipeline of Wan's kind: float32, eval mode, on the CPU; to be called within `weights.seeded`.

    It samples 16 x 16 pixels (32 x 32 with the residual autoencoder) and 9 frames. `parts` are the denoisers and,
    where there is one, the image encoder; the text encoder and the autoencoder are added.
    """
    import diffusers

    tokenizer = t5_tokenizer(WORDS, max_length=TEXT_LENGTH)
    modules = {
        "text_encoder": _text_encoder(len(tokenizer)),
        "vae": autoencoder or _autoencoder(),
        **parts,
    }
    for module in modules.values():
        wake(module)
        module.eval()
    if "image_encoder" in modules:
        modules["image_processor"] = _image_processor()
    return getattr(diffusers, pipeline_class)(
        tokenizer=tokenizer, scheduler=scheduler, **modules, **arguments
    )


def flow_scheduler(shift: float) -> Any:
    """Return the scheduler of Wan's diffusers folders: UniPC over flow sigmas."""
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=shift
    )


def transformer(*, image_tokens: bool = False, **sizes: Any) -> Any:
    """Return a WanTransformer3DModel of two blocks; `image_tokens` gives it keys and values for CLIP's."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(**transformer_sizes(image_tokens=image_tokens, **sizes))


def transformer_sizes(*, image_tokens: bool = False, **sizes: Any) -> dict[str, Any]:
    """The arguments of a tiny transformer of Wan's kind: noise, 4 mask channels and the image's latent go in."""
    inner = 24
    images = {"image_dim": IMAGE_WIDTH, "added_kv_proj_dim": inner} if image_tokens else {}
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": inner // 2,
        "in_channels": 2 * LATENT_CHANNELS + 4,
        "out_channels": LATENT_CHANNELS,
        "text_dim": TEXT_WIDTH,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
        **images,
        **sizes,
    }


def image_encoder(*, projected: bool = False) -> Any:
    """Return CLIP for 16 x 16 pixels, 5 tokens: a CLIPVisionModel, or one with the projection that is not used."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=IMAGE_WIDTH,
        intermediate_size=16,
        projection_dim=IMAGE_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIDE,
        patch_size=IMAGE_SIDE // 2,
    )
    return CLIPVisionModelWithProjection(config) if projected else CLIPVisionModel(config)


def _image_processor() -> Any:
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIDE}, crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    )


def _text_encoder(vocabulary: int) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary,
            d_model=TEXT_WIDTH,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            feed_forward_proj="gated-gelu",
        )
    )


def _autoencoder() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=4, z_dim=LATENT_CHANNELS, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def residual_autoencoder(channels: int) -> Any:
    """Return the autoencoder of Wan 2.2 5B: pixels in 2 x 2 patches, 16 times smaller, `channels` latent channels."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.02 * (index % 7 - 3) for index in range(channels)],
        latents_std=[0.5 + 0.05 * (index % 5) for index in range(channels)],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )


PIPELINES = (
    TinyPipeline(
        name="wan2.1-i2v",
        summary="Wan image-to-video, 2.1 14B layout with CLIP image tokens, random weights, 16 x 16 pixels, 9 frames",
        build=build_i2v,
        probe=PROBE,
    ),
    TinyPipeline(
        name="wan2.1-flf2v",
        summary="Wan first and last frame to video, 2.1 14B layout, random weights, 16 x 16 pixels, 9 frames",
        build=build_first_last,
        probe=PROBE,
    ),
    TinyPipeline(
        name="wan2.2-a14b-i2v",
        summary="Wan image-to-video, 2.2 A14B layout with two experts, random weights, 16 x 16 pixels, 9 frames",
        build=build_two_experts,
        probe=PROBE,
    ),
    TinyPipeline(
        name="wan2.2-ti2v-5b",
        summary="Wan image-to-video, 2.2 5B layout with a timestep a token, random weights, 32 x 32 pixels, 9 frames",
        build=build_expanded,
        probe={**PROBE, "height": 32, "width": 32},
    ),
    TinyPipeline(
        name="chronoedit",
        summary="ChronoEdit image editing as a clip, random weights, 16 x 16 pixels, 5 frames",
        build=build_chronoedit,
        probe={**PROBE, "frames": 5},
    ),
)
