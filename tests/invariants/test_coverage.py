"""coverage: what lives in the model is what the files hold."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TO_Q, TRANSFORMER, VAE, drop_tensors, edit_json, edit_tensors


def test_holds_for_a_healthy_pipeline_and_says_how_much_it_compared(judged, healthy):
    verdict = judged("coverage", healthy)

    assert verdict.outcome is Outcome.PASSED
    assert verdict.findings == ()
    assert verdict.measurements["tensors_compared"] > 300


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_follows_a_cast_that_was_asked_for(judged, healthy, dtype):
    assert judged("coverage", healthy, dtype=dtype).outcome is Outcome.PASSED


def test_founding_incident_is_named_with_its_tensors(judged, healthy, tmp_path):
    verdict = judged("coverage", adapter_wrapped(healthy, tmp_path / "incident"))

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component, finding.location) == ("GM203", "transformer", TO_Q)
    assert finding.evidence["count"] == 16
    assert finding.evidence["lora_factors"] == 16
    assert "merge_and_unload" in finding.action
    assert "374" in finding.cause


def test_missing_tensor_is_found_on_meta(judged, copy):
    drop_tensors(copy / TRANSFORMER, TO_Q)

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.component, finding.location) == ("GM201", "transformer", TO_Q)
    assert "meta" in finding.message


def test_missing_buffer_is_found(judged, copy):
    name = "patch_embed.pos_embedding"
    drop_tensors(copy / TRANSFORMER, name)

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.location) == ("GM201", name)


def test_missing_text_encoder_tensor_is_found_though_transformers_fills_it(judged, copy):
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    drop_tensors(copy / "text_encoder/model.safetensors", name)

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.component, finding.location) == ("GM201", "text_encoder", name)


def test_tensor_without_a_place_is_found(judged, copy):
    edit_tensors(copy / VAE, lambda tensors: tensors | {"decoder.extra.weight": torch.ones(3)})

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.component, finding.location) == ("GM202", "vae", "decoder.extra.weight")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_wrapper_prefix_is_named(judged, copy, prefix):
    edit_tensors(copy / TRANSFORMER, lambda tensors: {prefix + name: t for name, t in tensors.items()})

    findings = judged("coverage", copy).findings

    assert [finding.code for finding in findings] == ["GM205"]
    assert findings[0].evidence["prefix"] == prefix


def test_other_shape_is_found_by_tensor_although_the_library_refuses(judged, copy):
    edit_tensors(copy / TRANSFORMER, lambda tensors: tensors | {TO_Q: torch.zeros(8, 32)})

    findings = judged("coverage", copy).findings

    assert [finding.code for finding in findings] == ["GM204", "GM108"]
    assert findings[0].location == TO_Q
    assert findings[0].evidence == {"stored": [8, 32], "model": [32, 32]}


def test_not_a_number_is_found(judged, copy):
    def poison(tensors):
        tensors[TO_Q][3, 4] = float("nan")

    edit_tensors(copy / TRANSFORMER, poison)

    assert judged("coverage", copy).findings == ()
    [finding] = judged("sound_weights", copy).findings

    assert (finding.code, finding.location) == ("GM304", TO_Q)
    assert "1 of 1024" in finding.message


def test_value_that_the_requested_dtype_cannot_hold_is_found(judged, copy):
    def enlarge(tensors):
        tensors[TO_Q][3, 4] = 1e6

    edit_tensors(copy / TRANSFORMER, enlarge)

    assert judged("coverage", copy).findings == ()
    [finding] = judged("coverage", copy, dtype="float16").findings

    assert (finding.code, finding.location) == ("GM304", TO_Q)
    assert "finite in the file" in finding.message
    assert "float16" in finding.message


def test_model_that_is_changed_while_it_loads_is_found(judged, healthy, monkeypatch):
    from diffusers import CogVideoXTransformer3DModel

    load = CogVideoXTransformer3DModel.from_pretrained

    def load_and_reset(*args, **kwargs):
        model = load(*args, **kwargs)
        torch.nn.init.zeros_(model.transformer_blocks[1].attn1.to_v.weight)
        return model

    monkeypatch.setattr(CogVideoXTransformer3DModel, "from_pretrained", load_and_reset)

    [finding] = judged("coverage", healthy).findings

    assert (finding.code, finding.location) == ("GM303", "transformer_blocks.1.attn1.to_v.weight")
    assert "zero" in finding.message


def test_stale_second_set_is_found_and_the_newer_one_named(judged, copy):
    folder = copy / "transformer"
    torch.save({TO_Q: torch.zeros(2)}, folder / "diffusion_pytorch_model.bin")
    os.utime(folder / "diffusion_pytorch_model.safetensors", (1, 1))

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.location) == ("GM105", "diffusion_pytorch_model.bin")
    assert finding.evidence["passed_over_is_newer"] is True


def test_file_that_nobody_reads_is_a_warning(judged, copy):
    shutil.copy(copy / TRANSFORMER, copy / "transformer" / "best.safetensors")

    verdict = judged("coverage", copy)

    assert [(f.code, f.location) for f in verdict.findings] == [("GM106", "best.safetensors")]
    assert verdict.outcome is Outcome.PASSED
    assert judged("coverage", copy, strict=True).outcome is Outcome.FAILED


def test_optimizer_state_beside_the_weights_is_nothing(judged, copy):
    torch.save({}, copy / "transformer" / "optimizer.bin")

    assert judged("coverage", copy).findings == ()


def test_truncated_file_is_a_finding_with_its_offset(judged, copy):
    file = copy / TRANSFORMER
    file.write_bytes(file.read_bytes()[:-100])

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.component) == ("GM101", "transformer")
    assert "100 are missing" in finding.message
    assert finding.evidence["offset"] == file.stat().st_size


def test_git_lfs_pointer_is_named(judged, copy):
    (copy / VAE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.component) == ("GM102", "vae")
    assert "git lfs pull" in finding.action


def test_folder_without_weights_is_found(judged, copy):
    (copy / VAE).unlink()

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.component) == ("GM103", "vae")


def test_deleted_tokenizer_is_found_although_it_loads(judged, copy):
    for name in ("tokenizer.json", "spiece.model"):
        (copy / "tokenizer" / name).unlink(missing_ok=True)

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.component) == ("GM107", "tokenizer")


def test_foreign_class_is_a_finding_and_never_imported(judged, copy):
    edit_json(copy / "model_index.json", extra=["my_code", "Evil"])
    (copy / "my_code.py").write_text("raise SystemExit('ran')")

    findings = judged("coverage", copy).findings

    assert ("GM104", "extra") in [(f.code, f.component) for f in findings]


def test_broken_json_is_a_finding(judged, copy):
    (copy / "transformer" / "config.json").write_text('{"a": ')

    findings = judged("coverage", copy).findings

    assert findings
    assert findings[0].code == "GM101"
    assert findings[0].location.startswith("config.json")


@pytest.mark.parametrize("shard_size", ["40KB", "100KB"])
def test_shards_are_the_same_model(judged, copy, shard_size):
    from diffusers import CogVideoXTransformer3DModel

    folder = copy / "transformer"
    model = CogVideoXTransformer3DModel.from_pretrained(folder)
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size=shard_size)
    assert len(list(folder.glob("*.safetensors"))) > 1

    assert judged("coverage", copy).findings == ()


def test_missing_shard_is_found(judged, copy):
    from diffusers import CogVideoXTransformer3DModel

    folder = copy / "transformer"
    model = CogVideoXTransformer3DModel.from_pretrained(folder)
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="40KB")
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.location) == ("GM103", lost.name)


def test_variant_and_pickle_are_read(judged, copy):
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    for name, cls, arguments in (
        ("transformer", CogVideoXTransformer3DModel, {"variant": "fp16"}),
        ("vae", AutoencoderKLCogVideoX, {"safe_serialization": False}),
    ):
        model = cls.from_pretrained(copy / name)
        shutil.rmtree(copy / name)
        model.save_pretrained(copy / name, **arguments)

    assert judged("coverage", copy).findings == ()


def test_hostile_pickle_is_refused_and_never_run(judged, copy, tmp_path):
    import pickle

    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (copy / VAE).unlink()
    (copy / "vae" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"w": Evil()}))

    [finding] = judged("coverage", copy).findings

    assert (finding.code, finding.component) == ("GM104", "vae")
    assert not marker.exists()


def test_static_level_finds_the_founding_incident_without_loading(judged, healthy, tmp_path, monkeypatch):
    from diffusers import ModelMixin

    incident = adapter_wrapped(healthy, tmp_path / "incident")
    monkeypatch.setattr(ModelMixin, "from_pretrained", None)

    [finding] = judged("coverage", incident, level="static").findings

    assert (finding.code, finding.location, finding.evidence["count"]) == ("GM203", TO_Q, 16)


def test_static_level_is_silent_on_a_healthy_pipeline(judged, healthy):
    assert judged("coverage", healthy, level="static").findings == ()


def test_stored_tensor_that_the_load_left_on_meta_is_found(judged, healthy, monkeypatch):
    from diffusers import CogVideoXTransformer3DModel

    load = CogVideoXTransformer3DModel.from_pretrained

    def load_and_forget(*args, **kwargs):
        model = load(*args, **kwargs)
        model.proj_out.weight = torch.nn.Parameter(model.proj_out.weight.to("meta"))
        return model

    monkeypatch.setattr(CogVideoXTransformer3DModel, "from_pretrained", load_and_forget)

    [finding] = judged("coverage", healthy).findings

    assert (finding.code, finding.location) == ("GM201", "proj_out.weight")
    assert "is in the file" in finding.message


@pytest.mark.parametrize("level", ["static", "quick"])
def test_configuration_that_asks_for_a_billion_layers_is_refused_and_not_built(judged, copy, level):
    edit_json(copy / "transformer/config.json", num_layers=1_000_000_000)

    verdict = judged("coverage", copy, level=level)

    finding = next(f for f in verdict.findings if f.code == "GM108")
    assert "num_layers = 1000000000" in finding.message
