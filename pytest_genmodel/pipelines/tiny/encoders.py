"""Text and image encoders of transformers in small sizes, as several families use them.

Build them within `weights.seeded`: what they draw comes from the global generator.
"""

from __future__ import annotations

from typing import Any

T5_WIDTH = 32
"""Channels of what `t5_encoder` gives."""


def t5_encoder(vocabulary: int) -> Any:
    """Return a T5EncoderModel of two layers and `T5_WIDTH` channels, gated as T5 v1.1 is."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=T5_WIDTH,
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


def clip_text_encoder(tokenizer: Any, *, width: int) -> Any:
    """Return a CLIPTextModel of two layers and `width` channels for `tokenizer`, pooled at its end token."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def clip_image_encoder(*, image_size: int, patch_size: int, width: int, projection: int) -> Any:
    """Return a CLIPVisionModelWithProjection: `image_size` pixels a side, embeddings of `projection` channels."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=image_size,
            patch_size=patch_size,
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=projection,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    )


def clip_image_processor(image_size: int) -> Any:
    """Return a CLIPImageProcessor that resizes and crops to `image_size` pixels a side."""
    from transformers import CLIPImageProcessor

    sides = {"height": image_size, "width": image_size}
    return CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=sides)
