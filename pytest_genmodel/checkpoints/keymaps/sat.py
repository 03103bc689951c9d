"""SwissArmyTransformer's names for CogVideoX (2B, 5B, I2V, 1.5), and diffusers' for the same tensors.

Each tensor goes over whole or cut along dimension 0, so that every bit survives: one fused projection is query, key
and value; one modulation of twelve parts is two of diffusers'. Sines of positions are computed by both and left out.
"""

from __future__ import annotations

from pytest_genmodel.checkpoints.keymaps.rules import KeyMap, Part, Rule, left_out, renamed

_LAYER = "transformer.layers.{i}"
_BLOCK = "transformer_blocks.{i}"
_FUSED = f"{_LAYER}.attention.query_key_value"
_DENSE = f"{_LAYER}.attention.dense"


def _linear(stored: str, name: str) -> Rule:
    return renamed(stored + ".{leaf}", name + ".{leaf}")


def _fused(stored: str) -> Rule:
    parts = (
        Part(f"{_BLOCK}.attn1.to_{letter}.{{leaf}}", (place,), of=3) for place, letter in enumerate("qkv")
    )
    return Rule(stored + ".{leaf}", tuple(parts))


_MODULATION = Rule(
    "mixins.adaln_layer.adaLN_modulations.{i}.1.{leaf}",
    (
        Part(f"{_BLOCK}.norm1.linear.{{leaf}}", (0, 1, 2, 6, 7, 8), of=12),
        Part(f"{_BLOCK}.norm2.linear.{{leaf}}", (3, 4, 5, 9, 10, 11), of=12),
    ),
)

LORA: tuple[Rule, ...] = (
    *(
        renamed(f"{_FUSED}.matrix_{{factor}}.{place}", f"{_BLOCK}.attn1.to_{letter}.lora_{{factor}}.weight")
        for place, letter in enumerate("qkv")
    ),
    renamed(f"{_DENSE}.matrix_{{factor}}.0", f"{_BLOCK}.attn1.to_out.0.lora_{{factor}}.weight"),
)
"""The factors of a LoRA trained with SAT: a list of one for each projection that was fused."""

TRANSFORMER = KeyMap(
    component="transformer",
    marks=(".mixins.", ".transformer.layers."),
    rules=(
        _linear("mixins.patch_embed.proj", "patch_embed.proj"),
        _linear("mixins.patch_embed.text_proj", "patch_embed.text_proj"),
        renamed("mixins.pos_embed.pos_embedding", "patch_embed.pos_embedding"),
        _linear("time_embed.0", "time_embedding.linear_1"),
        _linear("time_embed.2", "time_embedding.linear_2"),
        _linear("ofs_embed.0", "ofs_embedding.linear_1"),
        _linear("ofs_embed.2", "ofs_embedding.linear_2"),
        _linear(f"{_LAYER}.input_layernorm", f"{_BLOCK}.norm1.norm"),
        _linear(f"{_LAYER}.post_attention_layernorm", f"{_BLOCK}.norm2.norm"),
        _fused(_FUSED),
        _fused(f"{_FUSED}.original"),
        _linear(_DENSE, f"{_BLOCK}.attn1.to_out.0"),
        _linear(f"{_DENSE}.original", f"{_BLOCK}.attn1.to_out.0"),
        _linear("mixins.adaln_layer.query_layernorm_list.{i}", f"{_BLOCK}.attn1.norm_q"),
        _linear("mixins.adaln_layer.key_layernorm_list.{i}", f"{_BLOCK}.attn1.norm_k"),
        _linear(f"{_LAYER}.mlp.dense_h_to_4h", f"{_BLOCK}.ff.net.0.proj"),
        _linear(f"{_LAYER}.mlp.dense_4h_to_h", f"{_BLOCK}.ff.net.2"),
        _MODULATION,
        _linear("transformer.final_layernorm", "norm_final"),
        _linear("mixins.final_layer.norm_final", "norm_out.norm"),
        _linear("mixins.final_layer.adaLN_modulation.1", "norm_out.linear"),
        _linear("mixins.final_layer.linear", "proj_out"),
        *LORA,
        *left_out(
            "mixins.pos_embed.freqs_sin",
            "mixins.pos_embed.freqs_cos",
            "transformer.position_embeddings.weight",
            "embed_tokens.weight",
            "{rest}.embed_tokens.weight",
        ),
    ),
)
