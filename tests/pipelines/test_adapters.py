"""LoRA candidates: attached at the scale they were trained with, by names that match; and what is said otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.adapters import ADAPTER_NAME, AttachError, attach
from pytest_genmodel.pipelines.families.cogvideox import CogVideoX
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.overlay import overlay
from pytest_genmodel.pipelines.pipeline import Pipeline, UnbackedError
from pytest_genmodel.pipelines.placement import Placement
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.residents import Role, residents
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.training.lora import ALPHA, RANK, train_lora

CPU = Placement("cpu", "float32")
LAYER = "transformer_blocks.0.attn1.to_q"
NAME = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def lora(healthy, tmp_path_factory) -> Path:
    """A LoRA of rank 4 and alpha 8 that has learned something: a folder as diffusers saves it. Read only."""
    with quiet():
        return train_lora(healthy, lr=1e-2, steps=2, seed=0, output=tmp_path_factory.mktemp("lora") / "lora")


@pytest.fixture(scope="module")
def factors(lora) -> dict[str, torch.Tensor]:
    return load_file(lora / NAME)


def peft_folder(healthy: Path, folder: Path, **config) -> Path:
    """A LoRA as peft itself saves it, with random factors."""
    from diffusers import CogVideoXTransformer3DModel
    from peft import LoraConfig, get_peft_model

    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["to_q", "to_v"], **config}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CogVideoXTransformer3DModel.from_pretrained(healthy / "transformer")
        get_peft_model(model, LoraConfig(init_lora_weights=False, **settings)).save_pretrained(folder)
    return folder


def write(folder: Path, tensors: dict[str, torch.Tensor], **config) -> Path:
    """A LoRA folder as diffusers saves it, `config` in the header."""
    folder.mkdir(exist_ok=True)
    metadata = {"format": "pt"}
    if config:
        stored = {f"transformer.{key}": value for key, value in config.items()}
        metadata["lora_adapter_metadata"] = json.dumps(stored)
    save_file(tensors, folder / NAME, metadata=metadata)
    return folder


def attached(adapter: Path, healthy: Path, workdir: Path) -> Pipeline:
    reference = open_checkpoint(healthy, "reference")
    return Pipeline(overlay(open_checkpoint(adapter, "candidate"), reference, workdir / "work"), CPU)


def scale_of(
    pipeline: Pipeline, healthy: Path, a: torch.Tensor, b: torch.Tensor, layer: str = LAYER
) -> float:
    """The scale at which the live layer adds B @ A to what the file of the base says, and that nothing else acts."""
    live = pipeline.diffusers.transformer.get_submodule(layer)
    base = load_file(healthy / "transformer" / "diffusion_pytorch_model.safetensors")
    x = torch.eye(base[f"{layer}.weight"].shape[1])
    with torch.no_grad():
        added = live(x) - torch.nn.functional.linear(x, base[f"{layer}.weight"], base[f"{layer}.bias"])
    update = (b @ a).T
    scale = float((added * update).sum() / (update * update).sum())
    assert torch.allclose(added, scale * update, atol=1e-5)
    return scale


def of_layer(tensors: dict[str, torch.Tensor], layer: str = LAYER) -> tuple[torch.Tensor, torch.Tensor]:
    [a] = [t for name, t in tensors.items() if f"{layer}.lora_A" in name]
    [b] = [t for name, t in tensors.items() if f"{layer}.lora_B" in name]
    return a, b


def test_the_trained_file_says_rank_and_alpha_and_they_differ(lora, factors):
    a, b = of_layer(factors)
    assert (a.shape[0], b.shape[1]) == (RANK, RANK)
    assert bool(b.any())
    assert ALPHA != RANK
    assert open_checkpoint(lora, "lora").adapter.config["lora_alpha"] == ALPHA


def test_a_diffusers_file_acts_at_alpha_by_rank(lora, factors, healthy, tmp_path):
    pipeline = attached(lora, healthy, tmp_path)

    assert scale_of(pipeline, healthy, *of_layer(factors)) == pytest.approx(ALPHA / RANK, rel=1e-3)


def test_a_lone_diffusers_file_acts_at_alpha_by_rank(lora, factors, healthy, tmp_path):
    pipeline = attached(lora / NAME, healthy, tmp_path)

    assert scale_of(pipeline, healthy, *of_layer(factors)) == pytest.approx(ALPHA / RANK, rel=1e-3)


SCALES = {
    "plain": ({}, ALPHA / RANK),
    "weak": ({"lora_alpha": 1}, 1 / RANK),
    "rank stabilised": ({"use_rslora": True}, ALPHA / RANK**0.5),
    "alpha of its own": ({"alpha_pattern": {LAYER: 32}}, 32 / RANK),
    "rank of its own": ({"rank_pattern": {LAYER: 2}}, ALPHA / 2),
}


@pytest.mark.parametrize("case", SCALES)
def test_a_peft_folder_acts_at_the_scale_of_its_configuration(healthy, tmp_path, case):
    config, scale = SCALES[case]
    folder = peft_folder(healthy, tmp_path / "peft", **config)
    tensors = load_file(folder / "adapter_model.safetensors")

    for given in (folder, folder / "adapter_model.safetensors"):
        pipeline = attached(given, healthy, tmp_path)
        assert scale_of(pipeline, healthy, *of_layer(tensors)) == pytest.approx(scale, rel=1e-3)


def test_pefts_names_without_its_configuration_act_at_alpha_equal_rank_and_are_warned_of(
    healthy, tmp_path, judged
):
    folder = peft_folder(healthy, tmp_path / "peft")
    file = folder / "adapter_model.safetensors"
    lone = file.rename(tmp_path / "renamed.safetensors")

    assert scale_of(attached(lone, healthy, tmp_path), healthy, *of_layer(load_file(lone))) == pytest.approx(
        1.0
    )
    assert [f.code for f in judged("sound_weights", lone, healthy).findings] == ["GM803"]


@pytest.mark.parametrize("level", ["static", "quick"])
def test_both_forms_are_covered(lora, healthy, tmp_path, judged, level):
    for folder in (lora, peft_folder(healthy, tmp_path / "peft")):
        verdict = judged("coverage", folder, healthy, level=level)
        assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
        assert verdict.measurements["tensors_compared"] > 300


def test_an_adapter_leaves_the_references_weights_alone(lora, healthy, judged):
    verdict = judged("same_weights", lora, healthy, expect="adapter")

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert verdict.measurements["transformer"]["changed"] == 0


def test_factors_without_the_prefix_are_found_not_to_be_attached(factors, healthy, tmp_path, judged):
    bare = {name.removeprefix("transformer."): t for name, t in factors.items()}
    folder = write(tmp_path / "bare", bare, r=RANK, lora_alpha=ALPHA)

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component) == ("GM801", "transformer")
    assert finding.evidence["count"] == len(factors)
    with torch.no_grad():  # and indeed nothing acts
        layer = attached(folder, healthy, tmp_path).diffusers.transformer.get_submodule(LAYER)
    assert type(layer) is torch.nn.Linear


def test_factors_of_a_layer_that_is_not_there_are_found(factors, healthy, tmp_path, judged):
    strange = {
        name.replace("transformer_blocks.0.", "transformer_blocks.7."): t for name, t in factors.items()
    }
    folder = write(
        tmp_path / "strange",
        strange,
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=["to_q", "to_k", "to_v", "to_out.0"],
    )

    verdict = judged("coverage", folder, healthy)

    assert verdict.outcome is Outcome.FAILED
    assert verdict.findings[0].code == "GM801"
    assert "transformer_blocks.7." in verdict.findings[0].location


def test_a_file_that_does_not_say_its_alpha_is_a_warning_and_acts_at_one(
    lora, factors, healthy, tmp_path, judged
):
    folder = write(tmp_path / "no-alpha", factors)

    verdict = judged("sound_weights", folder, healthy)

    assert [(f.code, f.severity.value) for f in verdict.findings] == [("GM803", "warning")]
    assert verdict.outcome is Outcome.PASSED
    assert judged("sound_weights", folder, healthy, strict=True).outcome is Outcome.FAILED
    pipeline = attached(folder, healthy, tmp_path)
    assert scale_of(pipeline, healthy, *of_layer(factors)) == pytest.approx(1.0, rel=1e-3)


def test_an_alpha_that_only_pefts_file_beside_it_knows_is_an_alpha_that_diffusers_does_not_know(
    factors, healthy, tmp_path, judged
):
    folder = write(tmp_path / "both", factors)
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 64}))

    assert [f.code for f in judged("sound_weights", folder, healthy).findings] == ["GM803"]
    pipeline = attached(folder, healthy, tmp_path)
    assert scale_of(pipeline, healthy, *of_layer(factors)) == pytest.approx(1.0, rel=1e-3)


def test_an_adapter_that_learned_nothing_is_a_warning(lora, factors, healthy, tmp_path, judged):
    with safe_open(lora / NAME, "pt") as stored:
        metadata = stored.metadata()
    zeros = {name: torch.zeros_like(t) if "lora_B" in name else t for name, t in factors.items()}
    (tmp_path / "zero").mkdir()
    save_file(zeros, tmp_path / "zero" / NAME, metadata=metadata)

    verdict = judged("sound_weights", tmp_path / "zero", healthy)

    assert [(f.code, f.severity.value) for f in verdict.findings] == [("GM802", "warning")]


def test_a_sample_with_the_adapter_is_another_and_without_it_the_bases(lora, healthy, tmp_path):
    adapted = attached(lora, healthy, tmp_path)
    base = Pipeline(open_checkpoint(healthy, "reference"), CPU)
    probe = make_probe(ProbeWishes(steps=1), base.checkpoint, base.family, full=False)

    assert adapted.digest != base.digest
    plain = base.sample(probe)
    assert not torch.equal(adapted.sample(probe).latents, plain.latents)
    adapted.diffusers.disable_lora()
    assert torch.equal(adapted.sample(probe, transformation="without").latents, plain.latents)


def test_alpha_is_part_of_what_the_candidate_is(factors, healthy, tmp_path):
    digests = {
        attached(write(tmp_path / f"{alpha}", factors, r=RANK, lora_alpha=alpha), healthy, tmp_path).digest
        for alpha in (1, 8)
    }

    assert len(digests) == 2


def test_the_order_of_the_checks_does_not_matter(lora, healthy, judged, request):
    """A sample attaches the LoRA to the live model; coverage afterwards must still know the model by its names."""
    session = GenmodelSession(Settings(candidates=(str(lora),), reference=str(healthy)))
    request.addfinalizer(session.close)

    verdicts = [
        session.judge(0, name, {}) for name in ("seeded_sampling", "coverage", "same_weights", "coverage")
    ]

    assert [(v.invariant, v.outcome.value, v.findings) for v in verdicts] == [
        (v.invariant, "passed", ()) for v in verdicts
    ]


def test_a_layer_that_wears_the_adapter_keeps_its_name_among_the_residents(lora, healthy, tmp_path):
    bare = residents(Pipeline(open_checkpoint(healthy, "reference"), CPU).component("transformer"))
    worn = residents(attached(lora, healthy, tmp_path).diffusers.transformer)

    assert {name: r.role for name, r in worn.items() if name in bare} == {n: r.role for n, r in bare.items()}
    added = {name: resident for name, resident in worn.items() if name not in bare}
    assert len(added) == 16
    assert all(f".{ADAPTER_NAME}." in name and r.role is Role.TRANSIENT for name, r in added.items())


def test_two_pipelines_of_one_adapter_share_what_is_attached(lora, healthy, tmp_path):
    """Attached twice, diffusers would say that the name is in use."""
    one = attached(lora, healthy, tmp_path)
    one.residency.limit = 2
    two = one.derive(one.checkpoint)

    assert one.diffusers.transformer is two.diffusers.transformer
    assert list(two.diffusers.transformer.peft_config) == [ADAPTER_NAME]


def test_the_reference_never_gets_the_adapter(lora, healthy, tmp_path):
    adapted = attached(lora, healthy, tmp_path)
    adapted.residency.limit = 2
    base = adapted.derive(open_checkpoint(healthy, "reference"))

    assert base.component("vae") is adapted.diffusers.vae
    assert base.diffusers.transformer is not adapted.diffusers.transformer
    assert type(base.diffusers.transformer.get_submodule(LAYER)) is torch.nn.Linear


def test_an_adapter_that_diffusers_refuses_is_one_line_and_never_a_pass(factors, healthy, tmp_path, judged):
    tensors = {name: t[:2] if "lora_A" in name else t for name, t in factors.items()}
    folder = write(tmp_path / "refused", tensors)

    with pytest.raises(AttachError) as caught:
        _ = attached(folder, healthy, tmp_path).diffusers
    assert "\n" not in str(caught.value)
    verdict = judged("coverage", folder, healthy)
    assert verdict.outcome in (Outcome.INCONCLUSIVE, Outcome.FAILED)


def test_without_peft_the_extra_is_named(lora, healthy, tmp_path, monkeypatch):
    import importlib.util

    pipeline = attached(lora, healthy, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)

    with pytest.raises(Exception, match=r"pytest-genmodel\[lora\]"):
        _ = pipeline.diffusers


def test_the_adapter_folder_is_not_written_to(lora, healthy, tmp_path):
    before = {path: path.read_bytes() for path in lora.rglob("*") if path.is_file()}

    _ = attached(lora, healthy, tmp_path).diffusers

    assert {path: path.read_bytes() for path in lora.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_a_pipeline_whose_adapter_lacks_a_factor_is_never_run(factors, healthy, tmp_path, half):
    name = f"transformer.{LAYER}.{half}.weight"
    folder = write(tmp_path / "part", {n: t for n, t in factors.items() if n != name})
    pipeline = attached(folder, healthy, tmp_path)

    with pytest.raises(UnbackedError, match=rf"the transformer's adapter were never .*{LAYER}\.{half}"):
        pipeline.require_backed()
    probe = make_probe(ProbeWishes(steps=1), pipeline.checkpoint, pipeline.family, full=False)
    with pytest.raises(UnbackedError):
        pipeline.sample(probe)
    assert pipeline.samples.computed == 0


def test_attaching_draws_nothing_from_the_global_generator(healthy, tmp_path):
    folder = peft_folder(healthy, tmp_path / "peft")
    pipeline = attached(folder, healthy, tmp_path)
    pipeline.component("transformer")
    state = torch.random.get_rng_state()

    _ = pipeline.diffusers

    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_adapter_that_was_refused_once_is_refused_again(factors, healthy, tmp_path):
    """And is not taken for one that was attached before."""
    folder = write(tmp_path / "refused", {n: t[:2] if "lora_A" in n else t for n, t in factors.items()})
    pipeline = attached(folder, healthy, tmp_path)

    for _ in range(2):
        with pytest.raises(AttachError):
            pipeline.require_backed()


class OtherName(CogVideoX):
    """A family whose denoiser has another name than CogVideoX's."""

    denoiser = "unet"


def test_a_family_whose_denoiser_has_another_name_attaches_and_saves(healthy, tmp_path):
    folder = peft_folder(healthy, tmp_path / "peft")
    tensors = load_file(folder / "adapter_model.safetensors")
    adapter = open_checkpoint(folder, "candidate").adapter

    class Live:
        unet = Pipeline(open_checkpoint(healthy, "reference"), CPU).component("transformer")

        def save_lora_weights(self, folder, **given):
            self.saved = (folder, given)

    live = Live()
    attach(live, adapter, OtherName())
    OtherName().save_lora(live, tmp_path / "out", tensors, {"r": RANK})

    layer = live.unet.get_submodule(LAYER)
    assert torch.equal(layer.lora_A[ADAPTER_NAME].weight, of_layer(tensors)[0])
    assert layer.scaling[ADAPTER_NAME] == ALPHA / RANK
    assert live.saved == (
        str(tmp_path / "out"),
        {"unet_lora_layers": tensors, "unet_lora_adapter_metadata": {"r": RANK}},
    )
