"""Key maps: files built to the letter of a trainer's names come back as the model's tensors, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.keymaps import KEY_MAPS, PLAIN, key_map_of, original_vae, sat
from pytest_genmodel.checkpoints.keymaps.rules import Part, Rule, left_out, map_weights, renamed
from pytest_genmodel.checkpoints.mapped import MappedWeights
from pytest_genmodel.checkpoints.weights import SafetensorsWeights
from pytest_genmodel.pipelines.library import quiet
from tests.checkpoints import sat_files
from tests.editing import TRANSFORMER, VAE, Tensors

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 8,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 32,
    "num_layers": 2,
    "sample_width": 2,
    "sample_height": 2,
    "sample_frames": 9,
    "max_text_seq_length": 16,
}
VARIANTS = {
    "5B-I2V": {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True},
    "5B": {"use_rotary_positional_embeddings": True},
    "2B": {"use_rotary_positional_embeddings": False},
    "1.5-I2V": {
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "ofs_embed_dim": 8,
        "patch_bias": False,
    },
}


def model_of(variant: str) -> tuple[torch.nn.Module, Tensors]:
    from diffusers import CogVideoXTransformer3DModel

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CogVideoXTransformer3DModel(**SMALL, **VARIANTS[variant])
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    return model, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def mapped(tensors: Tensors, rules: tuple[Rule, ...], folder: Path, **options) -> MappedWeights:
    file = folder / "weights.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)
    return map_weights(SafetensorsWeights((file,)), rules, **options)


def as_tensors(weights: MappedWeights) -> Tensors:
    return {name: weights.read(name) for name in weights.tensors}


def assert_equal(actual: Tensors, expected: Tensors) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_transformer_of_sat_is_diffusers_bit_for_bit_and_loads_strictly(variant, tmp_path):
    model, expected = model_of(variant)
    stored = sat_files.with_frequencies(sat_files.transformer(expected))

    weights = mapped(stored, sat.TRANSFORMER.rules, tmp_path)

    assert weights.unexplained == ()
    assert_equal(as_tensors(weights), expected)
    assert all(weights.spans(name) is not None for name in weights.tensors)
    model.load_state_dict(as_tensors(weights), strict=True)


def test_the_variants_are_what_they_are_called():
    shapes = {
        variant: {
            n: tuple(t.shape) for n, t in model_of(variant)[1].items() if n.startswith(("patch", "ofs"))
        }
        for variant in VARIANTS
    }

    assert len(shapes["1.5-I2V"]["patch_embed.proj.weight"]) == 2  # a Linear over 2 x 2 x 2 patches
    assert len(shapes["5B"]["patch_embed.proj.weight"]) == 4
    assert "ofs_embedding.linear_1.weight" in shapes["1.5-I2V"]
    assert [v for v in VARIANTS if "patch_embed.pos_embedding" in shapes[v]] == ["5B-I2V"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_of_a_release_survives(dtype, tmp_path):
    expected = {name: tensor.to(dtype) for name, tensor in model_of("5B-I2V")[1].items()}

    weights = mapped(sat_files.transformer(expected), sat.TRANSFORMER.rules, tmp_path)

    assert_equal(as_tensors(weights), expected)


def test_a_mistaken_order_of_the_fused_parts_would_be_seen(tmp_path, monkeypatch):
    """The test above is one of bits: with query and value exchanged, or the modulation cut in halves, it is red."""
    _, expected = model_of("5B")
    stored = sat_files.transformer(expected)
    halves = Rule(
        "mixins.adaln_layer.adaLN_modulations.{i}.1.{leaf}",
        (
            Part("transformer_blocks.{i}.norm1.linear.{leaf}", (0,), of=2),
            Part("transformer_blocks.{i}.norm2.linear.{leaf}", (1,), of=2),
        ),
    )

    weights = mapped(stored, (halves, *sat.TRANSFORMER.rules), tmp_path)

    with pytest.raises(AssertionError, match=r"norm1\.linear"):
        assert_equal(as_tensors(weights), expected)


@pytest.mark.parametrize(
    "name",
    [
        "transformer.layers.0.attention.query_key_values.weight",
        "transformer.layers.00.attention.dense.weight",
        "transformer.layers.x.attention.dense.weight",
        "transformer.layers.0.attention.dense.weight_scale",
        "transformer.layers.0.attention.dense",
        "mixins.adaln_layer.adaLN_modulations.0.2.weight",
        "time_embed.1.weight",
        "control.transformer.layers.0.mlp.dense_h_to_4h.weight",
        "mixins.pos_embed.frequencies",
        "label_emb.0.weight",
        "transformer_blocks.0.attn1.to_q.weight",
    ],
)
def test_a_name_that_no_rule_explains_is_kept_as_unexplained(name, tmp_path):
    stored = sat_files.transformer(model_of("5B")[1])

    weights = mapped({**stored, name: torch.ones(3, 3)}, sat.TRANSFORMER.rules, tmp_path)

    assert weights.unexplained == (name,)
    assert_equal(as_tensors(weights), model_of("5B")[1])


def test_a_fused_projection_without_its_bias_leaves_three_biases_without_a_source(tmp_path):
    _, expected = model_of("5B")
    stored = sat_files.transformer(expected)
    del stored["transformer.layers.1.attention.query_key_value.bias"]

    weights = mapped(stored, sat.TRANSFORMER.rules, tmp_path)

    assert expected.keys() - weights.tensors.keys() == {
        f"transformer_blocks.1.attn1.to_{letter}.bias" for letter in "qkv"
    }


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("transformer.layers.0.attention.query_key_value.weight", 3),
        ("transformer.layers.1.attention.query_key_value.bias", 3),
        ("mixins.adaln_layer.adaLN_modulations.1.1.weight", 12),
    ],
)
def test_rows_that_do_not_fall_into_equal_parts_are_damage_that_names_the_tensor(name, parts, tmp_path):
    stored = sat_files.transformer(model_of("5B")[1])
    stored[name] = stored[name][:-1]

    with pytest.raises(DamagedFileError, match=f"{name}.*{parts} equal parts"):
        mapped(stored, sat.TRANSFORMER.rules, tmp_path)


def test_a_fused_projection_that_is_a_scalar_is_damage(tmp_path):
    stored = sat_files.transformer(model_of("5B")[1])
    stored["transformer.layers.0.attention.query_key_value.weight"] = torch.tensor(1.0)

    with pytest.raises(DamagedFileError, match="equal parts"):
        mapped(stored, sat.TRANSFORMER.rules, tmp_path)


def test_a_projection_that_lies_there_wrapped_and_bare_is_damage(tmp_path):
    stored = sat_files.transformer(model_of("5B")[1])
    name = "transformer.layers.0.attention.dense"
    stored[f"{name}.original.weight"] = stored[f"{name}.weight"] + 1

    with pytest.raises(DamagedFileError, match=r"are both 'transformer_blocks\.0\.attn1\.to_out\.0\.weight'"):
        mapped(stored, sat.TRANSFORMER.rules, tmp_path)


def test_a_transformer_that_wears_its_lora_gives_the_base_and_the_factors(tmp_path):
    _, expected = model_of("5B")
    worn, factors = sat_files.lora(sat_files.transformer(expected))
    assert len(factors) == 16  # two layers, four projections, A and B

    weights = mapped(worn, sat.TRANSFORMER.rules, tmp_path)

    assert weights.unexplained == ()
    assert_equal(as_tensors(weights), {**expected, **factors})


def test_the_factors_by_themselves_get_the_pipelines_prefix(tmp_path):
    worn, factors = sat_files.lora(sat_files.transformer(model_of("5B")[1]))

    weights = mapped(
        {name: t for name, t in worn.items() if ".matrix_" in name}, sat.LORA, tmp_path, give="transformer."
    )

    assert_equal(as_tensors(weights), {f"transformer.{name}": tensor for name, tensor in factors.items()})


def test_the_autoencoder_of_the_training_is_diffusers(healthy, tmp_path):
    expected = load_file(healthy / VAE)

    weights = mapped(sat_files.autoencoder(expected), original_vae.VAE.rules, tmp_path)

    assert weights.unexplained == ()
    assert_equal(as_tensors(weights), expected)


def test_an_autoencoder_with_shortcuts_and_levels_of_its_own_width_is_diffusers(tmp_path):
    """The tiny one has one width at every level and no shortcut: here a mistaken level is a mistaken shape."""
    from diffusers import AutoencoderKLCogVideoX

    with quiet():
        model = AutoencoderKLCogVideoX(
            block_out_channels=(8, 16, 24, 32), latent_channels=4, layers_per_block=1, norm_num_groups=2
        )
    expected = model.state_dict()
    stored = sat_files.autoencoder(expected)
    assert any("nin_shortcut" in name for name in stored)
    assert stored["decoder.up.3.block.0.conv1.conv.weight"].shape[0] == 32

    weights = mapped(stored, original_vae.VAE.rules, tmp_path)

    assert_equal(as_tensors(weights), expected)
    model.load_state_dict(as_tensors(weights), strict=True)


@pytest.mark.parametrize(
    "name", ["encoder.attn.weight", "decoder.up.4.block.0.norm1.weight", "quant_conv.weight", "losses.x"]
)
def test_what_no_autoencoder_of_this_kind_has_is_unexplained(name, healthy, tmp_path):
    stored = {**sat_files.autoencoder(load_file(healthy / VAE)), name: torch.ones(2)}

    assert mapped(stored, original_vae.VAE.rules, tmp_path).unexplained == (name,)


# --- the machinery --------------------------------------------------------------------------------------------------


def test_only_names_with_a_prefix_of_the_component_are_its_own(tmp_path):
    tensors = {"a.x.weight": torch.ones(1), "b.x.weight": torch.ones(1), "c.y": torch.ones(1)}

    weights = mapped(tensors, (renamed("x.{leaf}", "{leaf}"),), tmp_path, prefixes=("a.", "c."), give="m.")

    assert list(weights.tensors) == ["m.weight"]
    assert weights.unexplained == ("c.y",)


def test_the_first_rule_that_fits_is_taken(tmp_path):
    rules = (*left_out("x.loss.{rest}"), renamed("x.{rest}", "y.{rest}"))

    weights = mapped({"x.loss.a": torch.ones(1), "x.b": torch.ones(1)}, rules, tmp_path)

    assert (list(weights.tensors), weights.unexplained) == (["y.b"], ())


def test_names_say_whose_they_are(healthy, tmp_path):
    denoiser, vae = load_file(healthy / TRANSFORMER), load_file(healthy / VAE)

    assert key_map_of(sat_files.transformer(denoiser)) is sat.TRANSFORMER
    assert key_map_of(sat_files.autoencoder(vae)) is original_vae.VAE
    assert key_map_of(denoiser) is None
    assert key_map_of(vae) is None
    assert key_map_of([]) is None
    assert key_map_of(load_file(healthy / "text_encoder" / "model.safetensors")) is None


def test_plain_rules_change_nothing(healthy, tmp_path):
    tensors = load_file(healthy / TRANSFORMER)

    assert_equal(as_tensors(mapped(tensors, PLAIN, tmp_path)), tensors)


def test_every_form_is_a_pattern_and_every_name_is_made_of_its_fields():
    for key_map in KEY_MAPS:
        for rule in key_map.rules:
            fields = dict.fromkeys(rule.pattern.groupindex, "1")
            assert all(part.name.format_map(fields) for part in rule.parts)
