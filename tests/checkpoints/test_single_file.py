"""One file with several components, or under the names of its training: parted, renamed, and judged as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.checkpoint import Kind
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.invariants.verdict import Outcome
from tests.checkpoints import sat_files
from tests.editing import TO_Q, TRANSFORMER, VAE, Tensors

TEXT_ENCODER = "text_encoder/model.safetensors"
FILES = {"transformer": TRANSFORMER, "vae": VAE, "text_encoder": TEXT_ENCODER}


@pytest.fixture(scope="module")
def parts(healthy) -> dict[str, Tensors]:
    return {name: load_file(healthy / file) for name, file in FILES.items()}


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def original(parts: dict[str, Tensors]) -> Tensors:
    """As the original trainers name them: everything under a prefix, and under names of its own."""
    return {
        **under("model.diffusion_model.", sat_files.transformer(parts["transformer"])),
        **under("first_stage_model.", sat_files.autoencoder(parts["vae"])),
        **under("conditioner.embedders.0.transformer.", parts["text_encoder"]),
    }


def comfy(parts: dict[str, Tensors]) -> Tensors:
    """As ComfyUI keeps a checkpoint, the tokenizer among the tensors."""
    return {
        **under("model.diffusion_model.", parts["transformer"]),
        **under("vae.", sat_files.autoencoder(parts["vae"])),
        **under("text_encoders.t5xxl.transformer.", parts["text_encoder"]),
        "text_encoders.t5xxl.spiece_model": torch.zeros(9, dtype=torch.uint8),
        "text_encoders.t5xxl.logit_scale": torch.tensor(4.6),
    }


def plain(parts: dict[str, Tensors]) -> Tensors:
    """A pipeline's components under their own names, in one file."""
    return {f"{part}.{name}": t for part, tensors in parts.items() for name, t in tensors.items()}


LAYOUTS = {"original": original, "comfy": comfy, "plain": plain}


def write(tensors: Tensors, file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)
    else:
        torch.save({"state_dict": tensors, "global_step": 3} if file.suffix == ".ckpt" else tensors, file)
    return file


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt", "pt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_all_components_is_parted_and_renamed(parts, tmp_path, layout, suffix):
    file = write(LAYOUTS[layout](parts), tmp_path / f"model.{suffix}")

    checkpoint = open_checkpoint(file, "file")

    assert checkpoint.kind is Kind.WEIGHTS
    assert set(checkpoint.components) == set(parts)
    for name, expected in parts.items():
        weights = checkpoint.components[name].weights
        assert weights.unexplained == ()
        assert weights.tensors.keys() == expected.keys()
        assert all(torch.equal(weights.read(tensor), expected[tensor]) for tensor in expected)


@pytest.mark.parametrize("level", ["static", "quick"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_judged_as_what_it_is(parts, healthy, tmp_path, judged, layout, level):
    file = write(LAYOUTS[layout](parts), tmp_path / "model.safetensors")

    covered = judged("coverage", file, healthy, level=level)
    same = judged("same_weights", file, healthy, level=level, expect="identical")

    assert (covered.outcome, covered.findings) == (Outcome.PASSED, ())
    assert (same.outcome, same.findings) == (Outcome.PASSED, ())
    assert same.measurements["vae"]["compared"] == 236


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_changed_tensor_is_named_as_diffusers_names_it(parts, healthy, tmp_path, judged, layout):
    changed = {name: dict(tensors) for name, tensors in parts.items()}
    changed["transformer"][TO_Q] = parts["transformer"][TO_Q].clone()
    changed["transformer"][TO_Q][0, 0] += 1
    file = write(LAYOUTS[layout](changed), tmp_path / "model.safetensors")

    [finding] = judged("same_weights", file, healthy, expect="identical").findings

    assert (finding.code, finding.component, finding.location) == ("GM301", "transformer", TO_Q)


@pytest.mark.parametrize(
    ("prefix", "component"),
    [
        ("model.diffusion_model.", "transformer"),
        ("diffusion_model.", "transformer"),
        ("transformer.", "transformer"),
        ("first_stage_model.", "vae"),
        ("vae.", "vae"),
        ("text_encoder.", "text_encoder"),
    ],
)
def test_one_component_under_a_prefix_is_that_component(parts, healthy, tmp_path, judged, prefix, component):
    file = write(under(prefix, parts[component]), tmp_path / "model.safetensors")

    assert list(open_checkpoint(file, "file").components) == [component]
    assert judged("coverage", file, healthy).findings == ()


def test_the_autoencoder_as_it_was_trained_is_known_by_its_names(parts, healthy, tmp_path, judged):
    file = tmp_path / "3d-vae.pt"
    torch.save({"state_dict": sat_files.autoencoder(parts["vae"]), "callbacks": {}}, file)

    assert list(open_checkpoint(file, "file").components) == ["vae"]
    for invariant in ("coverage", "same_weights"):
        verdict = judged(invariant, file, healthy)
        assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_a_transformer_of_sat_in_safetensors_is_known_by_its_names(parts, healthy, tmp_path, judged):
    file = write(sat_files.transformer(parts["transformer"]), tmp_path / "model.safetensors")

    assert list(open_checkpoint(file, "file").components) == ["transformer"]
    assert judged("same_weights", file, healthy, expect="identical").findings == ()


def test_a_prefix_that_nobody_knows_is_unexplained(parts, healthy, tmp_path, judged):
    strange = {"control_model.input.weight": torch.ones(2), "model_ema.decay": torch.ones(1)}
    file = write({**comfy(parts), **strange}, tmp_path / "model.safetensors")

    checkpoint = open_checkpoint(file, "file")

    assert checkpoint.components["transformer"].weights.unexplained == tuple(sorted(strange))
    assert [f.code for f in judged("sound_weights", file, healthy).findings] == ["GM208"]


def test_scaled_8_bit_weights_are_said_to_be_that(parts, healthy, tmp_path, judged):
    scaled: Tensors = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    for name, tensor in parts["transformer"].items():
        if name.endswith("attn1.to_q.weight"):
            scale = tensor.abs().max() / 448
            scaled[name] = (tensor / scale).to(torch.float8_e4m3fn)
            scaled[name.replace(".weight", ".scale_weight")] = scale
        else:
            scaled[name] = tensor
    file = write(under("model.diffusion_model.", scaled), tmp_path / "model.safetensors")

    assert "GM212" in {f.code for f in judged("sound_weights", file, healthy).findings}
    assert judged("coverage", file, healthy, level="static").outcome is Outcome.FAILED


@pytest.mark.parametrize("part", FILES)
def test_a_components_own_file_is_left_to_the_plain_format(healthy, part):
    checkpoint = open_checkpoint(healthy / FILES[part], "file")

    assert list(checkpoint.components) == [""]
    assert checkpoint.written_by == ""


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x02", b"nothing of the kind", b"PK\x03\x04" * 99]
)
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_a_damaged_pickle_is_left_to_whoever_reads_it(tmp_path, content, suffix):
    from pytest_genmodel.checkpoints.formats import lora_adapter, sat, single_file

    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)

    assert not any(module.recognises(file) for module in (lora_adapter, sat, single_file))
