"""The same model, run or laid out otherwise: in 16 bits, from the hub's cache, with what came with the base.

Each has a fault beside it that looks alike and must still be found.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families.cogvideox import CogVideoX
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.tiny.cogvideox_trained import FOLDER
from tests.editing import TRANSFORMER, VAE, drop_tensors, edit_tensors

FULL = {"trainer": "full"}
ATTENTION = {"transformations": ("math_attention",)}


def said(verdict):
    return [(finding.code, finding.severity.value, finding.location) for finding in verdict.findings]


# --- half precision -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory):
    """A pipeline whose text encoder is stored under names that the library translates while loading."""
    return tiny.materialise("hunyuan-i2v", tmp_path_factory.mktemp("hunyuan"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_renamed_tensors_are_followed_through_a_cast(judged, hunyuan, dtype):
    verdict = judged("coverage", hunyuan, dtype=dtype)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_tensor_that_is_missing_among_renamed_ones_is_found_through_a_cast(judged, hunyuan, tmp_path):
    copy = Path(shutil.copytree(hunyuan, tmp_path / "copy"))
    file = copy / "text_encoder" / "model.safetensors"
    lost = next(name for name in load_file(file) if "layers.0.mlp.up_proj" in name)
    drop_tensors(file, lost)

    findings = judged("coverage", copy, dtype="bfloat16").findings

    assert [finding.code for finding in findings] == ["GM201"]
    assert findings[0].location.endswith("layers.0.mlp.up_proj.weight")


def test_trainer_in_float32_for_inference_in_bfloat16_is_no_fault(judged):
    verdict = judged("training_conditions", FOLDER, parameters=FULL, dtype="bfloat16")

    assert verdict.outcome is Outcome.PASSED
    assert [code for code, *_ in said(verdict)] == ["GM739"]
    assert 0 < verdict.measurements["text_difference"] < 0.08


def test_caption_that_is_dropped_is_found_in_bfloat16(judged, monkeypatch):
    usual = CogVideoX.training_loss

    def captionless(self, live, clip, prompt, generator):
        return usual(self, live, clip, "", generator)

    monkeypatch.setattr(CogVideoX, "training_loss", captionless)

    findings = judged("training_conditions", FOLDER, parameters=FULL, dtype="bfloat16").findings

    assert [(f.code, f.location) for f in findings if f.severity.value == "error"] == [
        ("GM733", "encoder_hidden_states")
    ]
    assert "empty prompt" in findings[0].cause


def test_other_attention_is_held_to_what_rounding_does_in_bfloat16(judged, healthy):
    verdict = judged("neutral_transformations", healthy, parameters=ATTENTION, dtype="bfloat16")

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    floor = verdict.measurements["floor"]
    assert floor["frames"]["same again"] == floor["frames"]["thread count"] == 0
    assert 0 < floor["frames"]["rounding"] < 0.25


def test_attention_that_ignores_its_scale_is_found_in_bfloat16(judged, healthy, monkeypatch):
    plain = F.scaled_dot_product_attention

    def broken(query, key, value, *args, **kwargs):
        fused = torch.backends.cuda.flash_sdp_enabled()
        return plain(query * 3 if fused else query, key, value, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", broken)

    findings = judged("neutral_transformations", healthy, parameters=ATTENTION, dtype="bfloat16").findings

    assert [(finding.code, finding.evidence["transformation"]) for finding in findings] == [
        ("GM611", "math_attention")
    ]


# --- what lies beside the model -------------------------------------------------------------------------------------


def test_folder_of_the_hubs_cache_is_the_revision_in_use(judged, healthy, tmp_path):
    cache = tmp_path / "models--owner--name"
    shutil.copytree(healthy, cache / "snapshots" / "0a1b")
    shutil.copytree(healthy, cache / "snapshots" / "2c3d")
    edit_tensors(cache / "snapshots" / "0a1b" / VAE, lambda tensors: {n: t * 2 for n, t in tensors.items()})
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("2c3d")

    assert judged("same_weights", cache, healthy, expect="identical").findings == ()
    (cache / "refs" / "main").write_text("0a1b")
    assert said(judged("same_weights", cache, healthy, expect="identical")) != []


@pytest.mark.parametrize("reference", ["../../elsewhere", "", "no such"])
def test_revision_that_leads_elsewhere_is_not_followed(judged, healthy, tmp_path, reference):
    cache = tmp_path / "cache"
    shutil.copytree(healthy, tmp_path / "elsewhere")
    (cache / "snapshots").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(reference)

    assert judged("coverage", cache).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("place", ["whole-model.safetensors", "transformer/original.safetensors"])
def test_unread_file_that_came_with_the_base_is_a_note(judged, healthy, tmp_path, place):
    base = Path(shutil.copytree(healthy, tmp_path / "base"))
    shutil.copy(base / VAE, base / place)
    candidate = Path(shutil.copytree(base, tmp_path / "candidate"))
    name = Path(place).name

    assert said(judged("coverage", candidate, base)) == [("GM106", "note", name)]
    assert said(judged("coverage", candidate)) == [("GM106", "warning", name)]
    edit_tensors(candidate / place, lambda tensors: {n: t * 2 for n, t in tensors.items()})
    assert said(judged("coverage", candidate, base)) == [("GM106", "warning", name)]


def test_second_set_is_a_note_only_where_it_says_the_same(judged, copy):
    tensors = load_file(copy / VAE)
    beside = copy / "vae" / "diffusion_pytorch_model.bin"
    torch.save(tensors, beside)
    assert said(judged("coverage", copy)) == [("GM105", "note", beside.name)]

    first = next(iter(tensors))
    torch.save(tensors | {first: tensors[first] + 1}, beside)
    assert said(judged("coverage", copy)) == [("GM105", "error", beside.name)]
    torch.save({name: tensors[name] for name in tensors if name != first}, beside)
    assert said(judged("coverage", copy)) == [("GM105", "error", beside.name)]


def test_tokenizer_of_another_class_is_judged_by_its_ids(judged, copy, healthy):
    from pytest_genmodel.faults.copy import Copy

    Copy(copy).set_index(tokenizer=["transformers", "AutoTokenizer"])
    assert judged("same_config", copy, healthy).findings == ()

    vocabulary = copy / "tokenizer" / "tokenizer.json"
    text = vocabulary.read_text(encoding="utf-8")
    assert "red" in text
    vocabulary.write_text(text.replace('red"', 'blue-red"', 1), encoding="utf-8")
    assert {finding.code for finding in judged("same_config", copy, healthy).findings} == {"GM403"}


def test_candidate_without_a_probe_file_is_sampled_as_its_reference(judged, tmp_path):
    reference = tiny.materialise("wan2.1-i2v", tmp_path / "base")
    saved = Path(shutil.copytree(reference, tmp_path / "saved-by-a-trainer"))
    (saved / "probe.json").unlink()

    verdict = judged("seeded_sampling", saved, reference, expect="identical")

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


# --- training -------------------------------------------------------------------------------------------------------


def test_adapter_trained_with_dropout_infers_without(judged, healthy, tmp_path):
    from peft import LoraConfig, get_peft_model_state_dict

    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(str(healthy))
        config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5, target_modules=["to_q", "to_k"])
        pipeline.transformer.add_adapter(config)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in pipeline.transformer.named_parameters():
            if ".lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
        type(pipeline).save_lora_weights(
            str(tmp_path / "lora"),
            transformer_lora_layers=get_peft_model_state_dict(pipeline.transformer),
            transformer_lora_adapter_metadata=config.to_dict(),
        )

    for claim in ("seeded_sampling", "adapter_identity"):
        verdict = judged(claim, tmp_path / "lora", healthy, expect="adapter")
        assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ()), claim


def test_component_trained_and_saved_in_bfloat16_is_not_blamed_for_what_did_not_move(judged, copy, healthy):
    def trained(tensors, dtype):
        moved = {n: t * (1 + 1e-2 * torch.rand_like(t)) for n, t in tensors.items() if "attn" in n}
        return {n: moved.get(n, t).to(dtype) for n, t in tensors.items()}

    edit_tensors(copy / TRANSFORMER, lambda tensors: trained(tensors, torch.bfloat16))
    assert [entry[:2] for entry in said(judged("same_weights", copy, healthy, expect="finetuned"))] == [
        ("GM305", "note"),
        ("GM306", "note"),
    ]

    frozen = load_file(healthy / TRANSFORMER)
    narrow = {n: t.bfloat16() for n, t in frozen.items() if "norm" in n}
    save_file(trained(frozen, torch.float32) | narrow, copy / TRANSFORMER, {"format": "pt"})
    found = said(judged("same_weights", copy, healthy, expect="finetuned"))
    assert [entry[:2] for entry in found] == [("GM305", "warning"), ("GM306", "note")]
