"""HunyuanVideo image-to-video in small sizes: both ways in which the image enters, and SkyReels' third.

The layout is that of HunyuanVideo-I2V: a LLaVA that reads image and prompt through the pipeline's own template,
pooled CLIP text, a refiner, dual and single stream blocks, a causal autoencoder. The Llama tokenizer counts the words
of the two templates as Llama 3's does: the pipelines cut them off by their number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cogvideox import WORDS
from .encoders import clip_image_processor, clip_text_encoder
from .registry import TinyPipeline
from .tokenizers_bpe import clip_tokenizer, llama_tokenizer
from .weights import seeded, wake

TEMPLATE_LENGTH = 103
"""Tokens that the pipeline cuts off before the prompt, the image's counted as one."""
PROMPT_LENGTH = 32
IMAGE_TOKENS = 4
LATENT_CHANNELS = 4
LANGUAGE_WIDTH = 16
POOLED_WIDTH = 8
SEED = 20241203
PROBE = {"height": 16, "width": 16, "frames": 9}

_TEMPLATE_WORDS = (
    *(
        "Describe",
        "The",
        "Actions",
        "system",
        "user",
        "assistant",
        "the",
        "video",
        "by",
        "detailing",
        "following",
    ),
    *(
        "aspects",
        "according",
        "to",
        "reference",
        "image",
        "main",
        "content",
        "and",
        "theme",
        "of",
        "color",
        "shape",
    ),
    *("size", "texture", "quantity", "text", "spatial", "relationships", "objects", "events", "behaviors"),
    *(
        "temporal",
        "physical",
        "movement",
        "changes",
        "background",
        "environment",
        "light",
        "style",
        "atmosphere",
    ),
    *("camera", "angles", "movements", "transitions", "used", "in"),
)
_SPECIALS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>")


def build_latent_concat() -> Any:
    """Return a HunyuanVideoImageToVideoPipeline whose image latents stand beside the noise, with a mask.

    It samples 16 x 16 pixels and 4k + 1 frames, of which the pipeline drops the first four. Float32, eval mode, on
    the CPU, equal in every process; the caller's random state is left alone.
    """
    return _image_to_video("latent_concat", 2 * LATENT_CHANNELS + 1, SEED)


def build_token_replace() -> Any:
    """Return a HunyuanVideoImageToVideoPipeline whose first latent frame is the image's; as `build_latent_concat`."""
    return _image_to_video("token_replace", LATENT_CHANNELS, SEED + 1)


def build_skyreels() -> Any:
    """Return a HunyuanSkyreelsImageToVideoPipeline: the image beside the noise, and text alone for the Llama."""
    from diffusers import HunyuanSkyreelsImageToVideoPipeline

    tokenizer, tokenizer_2 = tokenizers()
    parts = modules(
        SEED + 2,
        text_encoder=lambda: llama(len(tokenizer)),
        text_encoder_2=lambda: clip_text_encoder(tokenizer_2, width=POOLED_WIDTH),
        vae=autoencoder,
        transformer=lambda: _transformer(2 * LATENT_CHANNELS, None),
    )
    return HunyuanSkyreelsImageToVideoPipeline(
        tokenizer=tokenizer, tokenizer_2=tokenizer_2, scheduler=_scheduler(), **parts
    )


def _image_to_video(condition: str, channels: int, seed: int) -> Any:
    from diffusers import HunyuanVideoImageToVideoPipeline

    tokenizer, tokenizer_2 = tokenizers()
    parts = modules(
        seed,
        text_encoder=lambda: _llava(tokenizer),
        text_encoder_2=lambda: clip_text_encoder(tokenizer_2, width=POOLED_WIDTH),
        vae=autoencoder,
        transformer=lambda: _transformer(channels, condition),
    )
    return HunyuanVideoImageToVideoPipeline(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler=_scheduler(),
        image_processor=clip_image_processor(14),
        **parts,
    )


def modules(seed: int, **makers: Callable[[], Any]) -> dict[str, Any]:
    """Make the modules from `seed`, in their order: none with a constant tensor, all in eval mode."""
    with seeded(seed):
        made = {name: make() for name, make in makers.items()}
        for module in made.values():
            wake(module)
            module.eval()
    return made


def _scheduler() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=7.0)


def tokenizers() -> tuple[Any, Any]:
    """Return the Llama tokenizer and the CLIP tokenizer."""
    plain = (*WORDS, *_TEMPLATE_WORDS)
    first = llama_tokenizer(
        (*plain, *(f"▁{word}" for word in plain), "\n\n"),
        specials=_SPECIALS,
        max_length=TEMPLATE_LENGTH + PROMPT_LENGTH,
    )
    return first, clip_tokenizer(WORDS)


def _llama_config(vocabulary: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=LANGUAGE_WIDTH,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )


def llama(vocabulary: int) -> Any:
    """Return a LlamaModel of four layers: the pipelines take what comes out of the second."""
    from transformers import LlamaModel

    return LlamaModel(_llama_config(vocabulary))


def _llava(tokenizer: Any) -> Any:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=_llama_config(len(tokenizer)),
            vision_config=CLIPVisionConfig(
                image_size=14,
                patch_size=7,
                hidden_size=8,
                intermediate_size=16,
                projection_dim=8,
                num_hidden_layers=3,
                num_attention_heads=2,
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=IMAGE_TOKENS,
            pad_token_id=3,
        )
    )


def autoencoder() -> Any:
    """Return an AutoencoderKLHunyuanVideo that compresses 8 times in space and 4 times along time."""
    from diffusers import AutoencoderKLHunyuanVideo

    return AutoencoderKLHunyuanVideo(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )


def _transformer(channels: int, condition: str | None) -> Any:
    from diffusers import HunyuanVideoTransformer3DModel

    return HunyuanVideoTransformer3DModel(
        in_channels=channels,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=LANGUAGE_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        rope_axes_dim=(4, 6, 6),
        guidance_embeds=condition != "latent_concat",
        image_condition_type=condition,
    )


PIPELINES = (
    TinyPipeline(
        name="hunyuan-i2v",
        summary="HunyuanVideo image-to-video, image latents beside the noise (33ch), random weights, 16 x 16 pixels",
        build=build_latent_concat,
        probe=PROBE,
    ),
    TinyPipeline(
        name="hunyuan-i2v-token-replace",
        summary="HunyuanVideo image-to-video, image in the first latent frame (16ch), random weights, 16 x 16 pixels",
        build=build_token_replace,
        probe=PROBE,
    ),
    TinyPipeline(
        name="hunyuan-skyreels-i2v",
        summary="SkyReels V1 on HunyuanVideo, image latents beside the noise, random weights, 16 x 16 pixels",
        build=build_skyreels,
        probe=PROBE,
    ),
)
