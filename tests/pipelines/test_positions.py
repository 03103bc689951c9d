"""Position tables in closed form, against the library's own at the published models' sizes."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import (
    get_3d_rotary_pos_embed,
    get_3d_sincos_pos_embed,
    get_timestep_embedding,
)
from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoRotaryPosEmbed
from diffusers.models.transformers.transformer_ltx import LTXVideoRotaryPosEmbed
from diffusers.models.transformers.transformer_ltx2 import LTX2AudioVideoRotaryPosEmbed
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video import get_resize_crop_region_for_grid
from diffusers.pipelines.ltx2.connectors import LTX2RotaryPosEmbed1d

from pytest_genmodel.pipelines.positions import (
    ROTARY,
    crop,
    rotary_table,
    sinusoidal_positions,
    time_embedding,
)

COGVIDEOX = {"patch_size": 2, "sample_height": 60, "sample_width": 90, "attention_head_dim": 64}


def worst(table, cos: torch.Tensor, sin: torch.Tensor) -> float:
    width = table.cos.shape[1]
    cos, sin = (value.double().reshape(-1, width) for value in (cos, sin))
    assert len(cos) == table.length
    gaps = ((cos[table.rows] - table.cos).abs().max(), (sin[table.rows] - table.sin).abs().max())
    return float(max(gaps)) / max(1.0, table.largest)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (48, 84), (90, 60), (16, 16)])
def test_cogvideox(height, width):
    table = rotary_table("CogVideoXTransformer3DModel", COGVIDEOX, {"shape": (1, 16, 13, height, width)})
    grid = (height // 2, width // 2)
    region = get_resize_crop_region_for_grid(grid, 45, 30)

    assert worst(table, *get_3d_rotary_pos_embed(64, region, grid, 13)) < 1e-6
    top, left, tall, wide = crop(grid, 30, 45)
    assert ((top, left), (top + tall, left + wide)) == region


def test_cogvideox_1_5_counts_patches_in_time_and_takes_no_crop():
    config = {**COGVIDEOX, "patch_size_t": 2, "sample_height": 96, "sample_width": 170}
    table = rotary_table("CogVideoXTransformer3DModel", config, {"shape": (1, 16, 22, 48, 80)})

    made = get_3d_rotary_pos_embed(64, None, (24, 40), 11, grid_type="slice", max_size=(48, 85))
    assert worst(table, *made) < 1e-6


def test_wan():
    config = {"attention_head_dim": 128, "patch_size": (1, 2, 2)}
    table = rotary_table("WanTransformer3DModel", config, {"shape": (1, 36, 21, 60, 104)})

    assert worst(table, *WanRotaryPosEmbed(128, (1, 2, 2), 1024)(torch.empty(1, 36, 21, 60, 104))) < 1e-6
    assert table.length == 21 * 30 * 52 > len(table.rows)


def test_hunyuan_video():
    config = {"rope_axes_dim": (16, 56, 56), "rope_theta": 256.0, "patch_size": 2, "patch_size_t": 1}
    table = rotary_table("HunyuanVideoTransformer3DModel", config, {"shape": (1, 16, 9, 30, 52)})

    made = HunyuanVideoRotaryPosEmbed(2, 1, [16, 56, 56], 256.0)(torch.empty(1, 16, 9, 30, 52))
    assert worst(table, *made) < 1e-6


def test_ltx_video():
    config = {"num_attention_heads": 32, "attention_head_dim": 64}
    scale = (8 / 25, 32, 32)
    table = rotary_table("LTXVideoTransformer3DModel", config, {"shape": (1, 128, 5, 8, 11), "scale": scale})

    rope = LTXVideoRotaryPosEmbed(2048)
    made = rope(torch.empty(1, 5 * 8 * 11, 128), 5, 8, 11, rope_interpolation_scale=scale)
    assert worst(table, *made) < 1e-6


def test_positions_of_another_size_are_told_apart():
    table = rotary_table("CogVideoXTransformer3DModel", COGVIDEOX, {"shape": (1, 16, 13, 60, 90)})
    other = get_3d_rotary_pos_embed(64, ((0, 0), (30, 45)), (30, 45), 13, theta=5000)

    assert worst(table, *other) > 1e-3


LTX2 = {
    "patch_size": 1,
    "patch_size_t": 1,
    "audio_patch_size_t": 1,
    "num_attention_heads": 32,
    "attention_head_dim": 128,
    "audio_num_attention_heads": 32,
    "audio_attention_head_dim": 64,
    "audio_cross_attention_dim": 2048,
    "pos_embed_max_pos": 20,
    "audio_pos_embed_max_pos": 20,
    "base_height": 2048,
    "base_width": 2048,
    "vae_scale_factors": (8, 32, 32),
    "audio_scale_factor": 4,
    "audio_sampling_rate": 16000,
    "audio_hop_length": 160,
    "causal_offset": 1,
    "rope_theta": 10000.0,
}


@pytest.mark.parametrize("kind", ["interleaved", "split"])
@pytest.mark.parametrize(
    ("module", "width"), [("rope", 4096), ("audio_rope", 2048), ("cross_attn_rope", 2048)]
)
def test_ltx2(module, width, kind):
    """Picture, sound, and the picture's seconds for the sound."""
    told = {"num_frames": 4, "height": 3, "width": 5, "fps": 24.0, "audio_num_frames": 26}
    table = rotary_table(
        "LTX2VideoTransformer3DModel", LTX2 | {"rope_type": kind}, {"module": module, "told": told}
    )
    sound = "audio" in module
    factors = {"scale_factors": (4,), "modality": "audio"} if sound else {}
    made = LTX2AudioVideoRotaryPosEmbed(width, rope_type=kind, num_attention_heads=32, **factors)
    if sound:
        coordinates = made.prepare_audio_coords(1, 26, "cpu")
    else:
        coordinates = made.prepare_video_coords(1, 4, 3, 5, "cpu", fps=24.0)

    tables = made(coordinates[:, :1] if "cross" in module else coordinates)

    if kind == "split":
        tables = tuple(each.transpose(1, 2).flatten(2) for each in tables)
    assert worst(table, *tables) < 1e-6


def test_ltx2_between_text_encoder_and_transformer():
    config = {
        "video_connector_num_attention_heads": 30,
        "video_connector_attention_head_dim": 128,
        "connector_rope_base_seq_len": 4096,
        "rope_theta": 10000.0,
        "rope_type": "interleaved",
    }
    table = rotary_table("LTX2TextConnectors", config, {"module": "video_connector.rope", "length": 300})

    assert worst(table, *LTX2RotaryPosEmbed1d(3840)(1, 300, "cpu")) < 1e-6


def test_class_that_is_not_known_has_no_table():
    assert rotary_table("MochiTransformer3DModel", {}, {"shape": (1, 1, 1, 1, 1)}) is None
    assert "CogVideoXTransformer3DModel" in ROTARY


def test_sinusoidal_table_of_cogvideox_2b():
    config = {
        "patch_size": 2,
        "sample_height": 60,
        "sample_width": 90,
        "sample_frames": 49,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 226,
        "spatial_interpolation_scale": 1.875,
        "temporal_interpolation_scale": 1.0,
    }
    made = get_3d_sincos_pos_embed(64, (45, 30), 13, 1.875, 1.0).flatten(0, 1)

    table = sinusoidal_positions(config, 64)

    assert not table[:226].any()
    assert float((table[226:] - made.double()).abs().max()) < 1e-5


@pytest.mark.parametrize("cosines_first", [True, False])
@pytest.mark.parametrize(("width", "shift", "scale"), [(32, 0.0, 1.0), (31, 1.0, 2.0)])
def test_time_embedding(cosines_first, width, shift, scale):
    timesteps = torch.tensor([0.0, 1.5, 500.0])

    made = get_timestep_embedding(timesteps, width, cosines_first, shift, scale)

    ours = time_embedding(timesteps, width, cosines_first=cosines_first, shift=shift, scale=scale)
    assert float((ours - made.double()).abs().max()) < 1e-3
    other = time_embedding(timesteps, width, cosines_first=not cosines_first, shift=shift, scale=scale)
    assert float((other - made.double()).abs().max()) > 0.5
