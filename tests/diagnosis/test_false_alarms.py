"""Legitimate differences between a candidate and its reference: no claim about files gives an error or a warning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.library import quiet
from tests.editing import TRANSFORMER, VAE, edit_json, edit_tensors

CLAIMS = ("coverage", "sound_weights", "same_weights", "same_config")
ENCODER = "text_encoder/model.safetensors"


def resharded(folder: Path) -> None:
    from diffusers import CogVideoXTransformer3DModel

    with quiet():
        model = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype="auto")
        shutil.rmtree(folder / "transformer")
        model.save_pretrained(folder / "transformer", max_shard_size="40KB")


def one_more_shard_size(folder: Path) -> None:
    from transformers import T5EncoderModel

    with quiet():
        model = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype="auto")
        shutil.rmtree(folder / "text_encoder")
        model.save_pretrained(folder / "text_encoder", max_shard_size="10KB")


def other_key_order(folder: Path) -> None:
    """Names in another order, and the bytes at other places: written by hand, as the library sorts them."""
    import struct

    file = folder / TRANSFORMER
    tensors = dict(reversed(load_file(file).items()))
    header, position, blobs = {}, 0, []
    for name, tensor in tensors.items():
        blob = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        dtype = {torch.float32: "F32", torch.float16: "F16", torch.float64: "F64"}[tensor.dtype]
        header[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + len(blob)],
        }
        position += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def variants_side_by_side(folder: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(folder / TRANSFORMER).items()}
    save_file(tensors, folder / "transformer/diffusion_pytorch_model.fp16.safetensors")


def tied_stored_under_the_other_name(folder: Path) -> None:
    def rename(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")

    edit_tensors(folder / ENCODER, rename)


def tied_stored_twice(folder: Path) -> None:
    edit_tensors(
        folder / ENCODER,
        lambda tensors: tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()},
    )


def version_and_path_fields(folder: Path) -> None:
    edit_json(folder / "transformer/config.json", _diffusers_version="0.1.0", _name_or_path="elsewhere")
    edit_json(folder / "text_encoder/config.json", transformers_version="4.0.0", _name_or_path="elsewhere")
    edit_json(folder / "model_index.json", _diffusers_version="0.1.0", _name_or_path="elsewhere")


def fp16_variant_of_the_master(folder: Path) -> None:
    """As `save_pretrained(variant="fp16")` writes it: the name says what was done."""
    for file in (TRANSFORMER, VAE):
        tensors = {name: tensor.half() for name, tensor in load_file(folder / file).items()}
        save_file(tensors, (folder / file).with_name("diffusion_pytorch_model.fp16.safetensors"))
        (folder / file).unlink()


def channels_last(folder: Path) -> None:
    tensors = load_file(folder / VAE)
    strided = {
        name: tensor.to(memory_format=torch.channels_last_3d) if tensor.dim() == 5 else tensor
        for name, tensor in tensors.items()
    }
    assert any(not tensor.is_contiguous() for tensor in strided.values())
    torch.save(strided, folder / "vae/diffusion_pytorch_model.bin")
    (folder / VAE).unlink()


def null_components(folder: Path) -> None:
    edit_json(folder / "model_index.json", image_encoder=[None, None], feature_extractor=[None, None])


def tokenizer_saved_anew(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")


def stored_wider(folder: Path) -> None:
    edit_tensors(folder / VAE, lambda tensors: {name: tensor.double() for name, tensor in tensors.items()})


def scripts_of_a_trainer(folder: Path) -> None:
    (folder / "transformer/zero_to_fp32.py").write_text("raise SystemExit('run')\n")


def fused_projections(folder: Path) -> None:
    from diffusers import CogVideoXTransformer3DModel

    with quiet():
        model = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer", torch_dtype="auto")
        model.fuse_qkv_projections()
        model.save_pretrained(folder / "transformer")
    assert any("to_qkv" in name for name in load_file(folder / TRANSFORMER))


def negative_zeros(folder: Path) -> None:
    """An optimizer at rate 0 makes +0.0 of -0.0."""
    edit_tensors(
        folder / TRANSFORMER, lambda tensors: {name: tensor + 0.0 for name, tensor in tensors.items()}
    )


DIFFERENCES: dict[str, Callable[[Path], None]] = {
    change.__name__: change
    for change in (
        resharded,
        one_more_shard_size,
        other_key_order,
        variants_side_by_side,
        tied_stored_under_the_other_name,
        tied_stored_twice,
        version_and_path_fields,
        fp16_variant_of_the_master,
        channels_last,
        null_components,
        tokenizer_saved_anew,
        stored_wider,
        scripts_of_a_trainer,
        fused_projections,
        negative_zeros,
    )
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.materialise("cogvideox-i2v-trained", tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("subject", ["random", "trained"])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_legitimate_difference_is_silent(judged, healthy, trained, tmp_path, name, subject):
    reference = healthy if subject == "random" else trained
    candidate = Path(shutil.copytree(reference, tmp_path / "candidate"))
    DIFFERENCES[name](candidate)

    for claim in CLAIMS:
        verdict = judged(claim, candidate, reference, level="static", expect="identical")
        loud = [f for f in verdict.findings if f.severity.value != "note"]
        assert (verdict.outcome, loud) == (Outcome.PASSED, []), claim


def test_fused_projection_that_differs_from_its_parts_is_found(judged, copy, healthy):
    fused_projections(copy)
    edit_tensors(
        copy / TRANSFORMER,
        lambda tensors: {name: t * 2 if "0.attn1.to_qkv.w" in name else t for name, t in tensors.items()},
    )

    for claim, code in (("coverage", "GM202"), ("same_weights", "GM207")):
        findings = judged(claim, copy, healthy, level="static", expect="identical").findings
        loud = [(f.code, f.location) for f in findings if f.severity.value != "note"]
        assert loud == [(code, "transformer_blocks.0.attn1.to_qkv.weight")]


def test_each_component_may_have_a_dtype_of_its_own(judged, healthy, tmp_path):
    """The recipe for Wan: bfloat16 transformer, float32 VAE."""
    mixed = Path(shutil.copytree(healthy, tmp_path / "mixed"))
    edit_tensors(
        mixed / TRANSFORMER, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()}
    )
    twin = Path(shutil.copytree(mixed, tmp_path / "twin"))

    for claim in CLAIMS:
        assert judged(claim, twin, mixed, level="static", expect="identical").findings == ()


def test_honest_fine_tune_is_silent(judged, trained, tmp_path):
    from pytest_genmodel.training.full import train_full

    with quiet():
        tuned = train_full(trained, lr=1e-4, steps=2, seed=0, output=tmp_path / "tuned")

    for claim in CLAIMS:
        verdict = judged(claim, tuned, trained, level="static", expect="finetuned")
        loud = [f for f in verdict.findings if f.severity.value != "note"]
        assert (verdict.outcome, loud) == (Outcome.PASSED, []), claim
