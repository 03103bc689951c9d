"""Names of LoRA factors: whose they are, and which layer of a model each of them means."""

from __future__ import annotations

import pytest

from pytest_genmodel.checkpoints.formats.lora_adapter import is_factor
from pytest_genmodel.checkpoints.keymaps.lora import (
    Factor,
    bare_module,
    factor_of,
    is_kohyas,
    other_kind,
    resolve,
)

LAYER = "transformer_blocks.0.attn1.to_q"
KOHYA = "lora_unet_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{LAYER}.lora_A.weight", Factor(LAYER, "lora_A", ".weight")),
        (f"transformer.{LAYER}.lora_B.weight", Factor(f"transformer.{LAYER}", "lora_B", ".weight")),
        (f"{LAYER}.lora_A.default.weight", Factor(LAYER, "lora_A", ".weight")),
        (f"{LAYER}.lora_B.bias", Factor(LAYER, "lora_B", ".bias")),
        (f"{KOHYA}.lora_down.weight", Factor(KOHYA, "lora_A", ".weight")),
        (f"{KOHYA}.lora_up.weight", Factor(KOHYA, "lora_B", ".weight")),
        (f"{KOHYA}.alpha", Factor(KOHYA, "alpha")),
        (f"{LAYER}.lora.down.weight", Factor(LAYER, "lora_A", ".weight")),
        (f"{LAYER}.lora_magnitude_vector", Factor(LAYER, "lora_magnitude_vector")),
        (f"{LAYER}.lora_magnitude_vector.default.weight", Factor(LAYER, "lora_magnitude_vector", ".weight")),
        ("embed.lora_embedding_A", Factor("embed", "lora_embedding_A")),
        ("embed.lora_embedding_B.default", Factor("embed", "lora_embedding_B")),
        (f"{LAYER}.weight", None),
        ("alphas_cumprod", None),
        ("x.alphas", None),
        ("lora_A.weight", None),
        (f"{LAYER}.lora_Ab.weight", None),
        (f"{LAYER}.lora_A.weight.extra", None),
        ("", None),
    ],
)
def test_a_factors_name_is_taken_apart(name, expected):
    assert factor_of(name) == expected
    assert is_factor(name) is (expected is not None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{KOHYA}.hada_w1_a", "LoHa"),
        (f"{KOHYA}.lokr_w2_b", "LoKr"),
        (f"{KOHYA}.oft_blocks", "OFT"),
        (f"{KOHYA}.lora_mid.weight", "LoCon with a middle factor"),
        (f"{KOHYA}.dora_scale", "DoRA as LyCORIS keeps it"),
        (f"{KOHYA}.diff", "whole differences of weights"),
        (f"{KOHYA}.diff_b", "whole differences of biases"),
        (f"{KOHYA}.lora_up.weight", None),
        ("model.diffusion_model.x.weight", None),
        ("blocks.diff.weight", None),
    ],
)
def test_another_kind_of_adapter_is_called_by_its_name(name, kind):
    assert other_kind(name) == kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{KOHYA}.lora_down.weight", True),
        (f"{KOHYA}.alpha", True),
        ("lora_te_text_model_encoder.lora_up.weight", True),
        (f"diffusion_model.{LAYER}.lora_A.weight", True),
        (f"model.diffusion_model.{LAYER}.lora_B.weight", True),
        (f"{LAYER}.lora_up.weight", True),
        (f"transformer.{LAYER}.lora_A.weight", False),
        (f"base_model.model.{LAYER}.lora_A.weight", False),
        (f"{LAYER}.lora_A.weight", False),
    ],
)
def test_kohyas_spelling_is_told_from_diffusers(name, expected):
    assert is_kohyas(name) is expected


@pytest.mark.parametrize(
    "prefix",
    ["", "transformer.", "base_model.model.", "diffusion_model.", "model.diffusion_model.", "unet."],
)
def test_a_layer_is_called_as_the_denoiser_calls_it(prefix):
    assert bare_module(prefix + LAYER) == LAYER


MODULES = [LAYER, "transformer_blocks.0.attn1.to_out.0", "time_embedding.linear_1", "proj_out"]


@pytest.mark.parametrize(
    ("stored", "module"),
    [
        (KOHYA, LAYER),
        ("lora_transformer_transformer_blocks_0_attn1_to_q", LAYER),
        ("lycoris_transformer_blocks_0_attn1_to_out_0", "transformer_blocks.0.attn1.to_out.0"),
        ("lora_unet_time_embedding_linear_1", "time_embedding.linear_1"),  # one underscore stays one
        ("lora_unet_proj_out", "proj_out"),
        (f"diffusion_model.{LAYER}", LAYER),
        (f"model.diffusion_model.{LAYER}", LAYER),
        (f"transformer.{LAYER}", LAYER),
        (LAYER, LAYER),
    ],
)
def test_a_layer_is_found_by_the_models_own_names(stored, module):
    names = [f"{stored}.lora_down.weight", f"{stored}.lora_up.weight", f"{stored}.alpha"]

    found = resolve(names, MODULES, "transformer.")

    assert found.unmatched == []
    assert found.names == {
        f"transformer.{module}.lora_A.weight": names[0],
        f"transformer.{module}.lora_B.weight": names[1],
        f"transformer.{module}.alpha": names[2],
    }


@pytest.mark.parametrize(
    "stored",
    [
        "lora_unet_transformer_blocks_7_attn1_to_q",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_transformer_layers_0_attention_dense",
        "transformer_blocks_0_attn1_to_q",
        "lora_unet_",
        f"text_encoder.{LAYER}",
    ],
)
def test_a_name_that_means_no_layer_is_told(stored):
    names = [f"{stored}.lora_down.weight", f"{KOHYA}.lora_up.weight"]

    found = resolve(names, MODULES, "transformer.")

    assert found.unmatched == names[:1]
    assert list(found.names.values()) == names[1:]


def test_a_name_that_could_be_either_of_two_layers_is_not_guessed():
    modules = ["blocks.0.to_q", "blocks.0_to.q"]

    found = resolve(["lora_unet_blocks_0_to_q.lora_up.weight"], modules, "transformer.")

    assert (found.names, found.unmatched) == ({}, ["lora_unet_blocks_0_to_q.lora_up.weight"])


def test_two_names_of_one_factor_are_not_both_taken():
    names = [f"{KOHYA}.lora_up.weight", f"diffusion_model.{LAYER}.lora_B.weight"]

    found = resolve(names, MODULES, "transformer.")

    assert list(found.names.values()) == names[:1]
    assert found.unmatched == names[1:]
