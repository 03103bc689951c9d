"""LoRA candidates under other trainers' names: kohya's, ComfyUI's, SwissArmyTransformer's; and what is not read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.adapters import ADAPTER_NAME, AttachError
from pytest_genmodel.pipelines.overlay import overlay
from tests.checkpoints import sat_files
from tests.pipelines.test_adapters import LAYER, attached, of_layer, scale_of

RANK = 4


@pytest.fixture(scope="module")
def factors() -> dict[str, torch.Tensor]:
    """A LoRA of four layers of each block, by diffusers' names."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"transformer.transformer_blocks.{block}.attn1.{layer}.lora_{half}.weight": torch.randn(
            shape, generator=generator
        )
        for block in (0, 1)
        for layer in ("to_k", "to_out.0", "to_q", "to_v")
        for half, shape in (("A", (RANK, 32)), ("B", (32, RANK)))
    }


SPELLINGS = {
    "kohya": ("lora_unet_", "_", "lora_down", "lora_up"),
    "kohya of a transformer": ("lora_transformer_", "_", "lora_down", "lora_up"),
    "ComfyUI": ("diffusion_model.", ".", "lora_A", "lora_B"),
    "ComfyUI with kohya's words": ("diffusion_model.", ".", "lora_down", "lora_up"),
    "an old diffusers": ("transformer.", ".", "lora.down", "lora.up"),
    "diffusers with alpha beside": ("transformer.", ".", "lora_A", "lora_B"),
}


def spelled(
    factors: dict[str, torch.Tensor], spelling: str, alpha: float | dict[str, float] | None
) -> dict[str, torch.Tensor]:
    """The factors as another trainer names them."""
    prefix, dot, down, up = SPELLINGS[spelling]
    named = {}
    for name, tensor in factors.items():
        layer, half = name.removeprefix("transformer.").removesuffix(".weight").rsplit(".lora_", 1)
        stem = f"{prefix}{layer.replace('.', dot)}"
        named[f"{stem}.{down if half == 'A' else up}.weight"] = tensor
        of_layer = alpha.get(layer) if isinstance(alpha, dict) else alpha
        if of_layer is not None:
            named[f"{stem}.alpha"] = torch.tensor(of_layer)
    return named


def lone(tensors: dict[str, torch.Tensor], folder: Path, **metadata: str) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "some_lora.safetensors", metadata=metadata or None)
    return folder / "some_lora.safetensors"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_trainers_names_are_resolved_and_act_at_the_files_own_scale(
    factors, healthy, tmp_path, judged, spelling
):
    file = lone(spelled(factors, spelling, 2.0), tmp_path / "x")

    pipeline = attached(file, healthy, tmp_path)

    assert scale_of(pipeline, healthy, *of_layer(factors)) == pytest.approx(2.0 / RANK, rel=1e-3)
    for level in ("static", "quick"):
        verdict = judged("coverage", file, healthy, level=level)
        assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert judged("sound_weights", file, healthy).findings == ()


def test_resolved_factors_have_diffusers_names_and_the_stored_bytes(factors, healthy, tmp_path):
    file = lone(spelled(factors, "kohya", 2.0), tmp_path / "x")

    raw = open_checkpoint(file, "candidate")
    whole = overlay(raw, open_checkpoint(healthy, "reference"), tmp_path / "work")

    assert all(name.startswith("lora_unet_") for name in raw.adapter.weights.tensors)
    weights = whole.adapter.weights
    assert weights.unexplained == ()
    assert {name for name in weights.tensors if not name.endswith(".alpha")} == set(factors)
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in factors.items())
    assert "kohya" in whole.written_by


def test_layers_have_their_own_rank_and_alpha(factors, healthy, tmp_path):
    """Diffusers takes one alpha for all layers from whichever comes first: up to 4 times too strong or too weak."""
    other = "transformer_blocks.1.attn1.to_v"
    mixed = dict(factors)
    a, b = of_layer(factors, other)
    mixed[f"transformer.{other}.lora_A.weight"] = a[:2].clone()
    mixed[f"transformer.{other}.lora_B.weight"] = b[:, :2].clone()
    layers = {name.removeprefix("transformer.").rsplit(".lora_", 1)[0] for name in factors}
    alphas = dict.fromkeys(layers, 2.0) | {other: 16.0, LAYER: 1.0}

    pipeline = attached(lone(spelled(mixed, "kohya", alphas), tmp_path / "x"), healthy, tmp_path)

    assert scale_of(pipeline, healthy, *of_layer(mixed)) == pytest.approx(1 / RANK, rel=1e-3)
    assert scale_of(pipeline, healthy, *of_layer(mixed, other), layer=other) == pytest.approx(8.0, rel=1e-3)
    third = "transformer_blocks.1.attn1.to_k"
    assert scale_of(pipeline, healthy, *of_layer(mixed, third), layer=third) == pytest.approx(
        2 / RANK, rel=1e-3
    )


def test_kohyas_names_without_alpha_act_at_one_whatever_the_notes_say_and_are_warned_of(
    factors, healthy, tmp_path, judged
):
    file = lone(spelled(factors, "kohya", None), tmp_path / "x", ss_network_alpha="2", ss_network_dim="4")

    assert scale_of(attached(file, healthy, tmp_path), healthy, *of_layer(factors)) == pytest.approx(
        1.0, rel=1e-3
    )
    assert [f.code for f in judged("sound_weights", file, healthy).findings] == ["GM803"]


def test_a_layer_that_is_a_convolution_is_attached(healthy, tmp_path):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator) for shape in ((4, 8, 2, 2), (32, 4, 1, 1)))
    stem = "lora_unet_patch_embed_proj"
    tensors = {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b, f"{stem}.alpha": torch.tensor(2.0)}

    pipeline = attached(lone(tensors, tmp_path / "x"), healthy, tmp_path)

    layer = pipeline.diffusers.transformer.patch_embed.proj
    assert layer.scaling[ADAPTER_NAME] == 0.5
    assert torch.equal(layer.lora_A[ADAPTER_NAME].weight, a)


@pytest.mark.parametrize("level", ["static", "quick"])
def test_names_that_match_no_layer_are_said_and_the_others_are_attached(
    factors, healthy, tmp_path, judged, level
):
    strange = {
        "lora_te_text_model_fc1.lora_up.weight": torch.ones(2, 2),
        "lora_unet_transformer_blocks_9_attn1_to_q.alpha": torch.tensor(2.0),
    }
    file = lone(spelled(factors, "kohya", 2.0) | strange, tmp_path / "x")

    verdict = judged("coverage", file, healthy, level=level)

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert finding.code == "GM801"
    assert set(finding.evidence["tensors"]) == set(strange)
    pipeline = attached(file, healthy, tmp_path)
    assert set(pipeline.checkpoint.adapter.weights.unexplained) == set(strange)
    assert scale_of(pipeline, healthy, *of_layer(factors)) == pytest.approx(2.0 / RANK, rel=1e-3)


@pytest.mark.parametrize("level", ["static", "quick"])
def test_a_lora_of_another_model_is_a_finding_that_shows_a_name(factors, healthy, tmp_path, judged, level):
    other = {name.replace("transformer_blocks", "single_blocks"): t for name, t in factors.items()}
    file = lone(spelled(other, "kohya", 2.0), tmp_path / "x")

    verdict = judged("coverage", file, healthy, level=level)

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert finding.code == "GM801"
    assert "kohya's names (lora_unet_single_blocks_" in finding.message
    assert judged("seeded_sampling", file, healthy).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("lora_mid.weight", "middle factor"),
    ],
)
@pytest.mark.parametrize("level", ["static", "quick"])
def test_another_kind_of_adapter_is_refused_by_its_name(
    factors, healthy, tmp_path, judged, suffix, kind, level
):
    tensors = spelled(factors, "kohya", 2.0)
    tensors["lora_unet_transformer_blocks_0_attn1_to_q." + suffix] = torch.ones(4, 4)

    verdict = judged("coverage", lone(tensors, tmp_path / "x"), healthy, level=level)

    assert verdict.outcome is Outcome.FAILED
    [finding] = [f for f in verdict.findings if f.code == "GM801"]
    assert kind in finding.message
    assert suffix in finding.message


@pytest.mark.parametrize(
    "shapes",
    [
        {"lora_up.weight": (4,)},
        {"lora_up.weight": (0, 0), "lora_down.weight": (0, 32)},
        {"lora_up.weight": (), "alpha": ()},
        {"lora_up.weight": (32, 4), "lora_down.weight": (4, 31), "alpha": (0,)},
        {"lora_up.weight": (32, 4), "lora_down.weight": (2, 32), "alpha": (3, 3)},
        {
            "lora_up.weight": (32, 4, 1, 1),
            "lora_down.weight": (4, 32, 1, 1),
        },  # a convolution's, on a linear layer
    ],
    ids=str,
)
@pytest.mark.parametrize("level", ["static", "quick"])
def test_factors_of_no_sensible_shape_are_one_line_and_never_a_pass(healthy, tmp_path, judged, shapes, level):
    stem = "lora_unet_transformer_blocks_0_attn1_to_q"
    file = lone({f"{stem}.{part}": torch.ones(shape) for part, shape in shapes.items()}, tmp_path / "x")

    verdicts = [judged(name, file, healthy, level=level) for name in ("coverage", "sound_weights")]

    if level == "quick":
        assert verdicts[0].outcome in (Outcome.FAILED, Outcome.INCONCLUSIVE)
        with pytest.raises(AttachError) as caught:
            _ = attached(file, healthy, tmp_path).diffusers
        assert "\n" not in str(caught.value)


def test_a_pickle_of_factors_is_an_adapter_too(factors, healthy, tmp_path, judged):
    torch.save(spelled(factors, "kohya", 2.0), tmp_path / "kohya.pt")
    (tmp_path / "plain").mkdir()
    torch.save(factors, tmp_path / "plain" / "pytorch_lora_weights.bin")

    kohya, plain = (attached(tmp_path / name, healthy, tmp_path) for name in ("kohya.pt", "plain"))

    assert scale_of(kohya, healthy, *of_layer(factors)) == pytest.approx(2.0 / RANK, rel=1e-3)
    assert scale_of(plain, healthy, *of_layer(factors)) == pytest.approx(1.0, rel=1e-3)
    assert judged("coverage", tmp_path / "plain", healthy).outcome is Outcome.PASSED


def test_the_alpha_tensor_is_part_of_what_the_candidate_is(factors, healthy, tmp_path):
    files = {alpha: lone(spelled(factors, "kohya", alpha), tmp_path / f"{alpha}") for alpha in (1.0, 8.0)}

    assert len({attached(file, healthy, tmp_path).digest for file in files.values()}) == 2


# --- SwissArmyTransformer's -----------------------------------------------------------------------------------------


@pytest.fixture
def sat(healthy, tmp_path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A transformer that wears its LoRA, as SAT saves it, and the factors under diffusers' names."""
    base = sat_files.transformer(load_file(healthy / "transformer" / "diffusion_pytorch_model.safetensors"))
    worn, factors = sat_files.lora(base)
    return sat_files.write(tmp_path / "sat", sat_files.engine(worn)), factors


@pytest.mark.parametrize(("parameters", "scale"), [("r: 4, lora_alpha: 2", 0.5), ("r: 4", 0.25), (None, 1.0)])
def test_a_lora_of_sat_acts_at_the_scale_of_its_configuration(
    sat, healthy, tmp_path, judged, parameters, scale
):
    folder, factors = sat
    if parameters is not None:
        text = f"model: {{network_config: {{params: {{modules: {{lora_config: {{params: {{{parameters}}}}}}}}}}}}}"
        (folder / "training_config.yaml").write_text(text)

    pipeline = attached(folder, healthy, tmp_path)

    assert scale_of(pipeline, healthy, *of_layer(factors)) == pytest.approx(scale, rel=1e-3)
    codes = {f.code for f in judged("sound_weights", folder, healthy).findings}
    assert ("GM803" in codes) is (parameters is None)


def test_every_factor_of_sat_is_compared_with_the_live_one(sat, healthy, judged):
    folder, _ = sat

    assert [f.code for f in judged("coverage", folder, healthy).findings] == ["GM203"]
