"""coverage of a LoRA: every factor of the file lives in the model, and every factor in the model is the file's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.invariants.verdict import Outcome
from tests.pipelines.test_adapters import peft_folder, write

LAYER = "transformer_blocks.0.attn1.to_q"
A, B = (f"transformer.{LAYER}.lora_{half}.weight" for half in "AB")
CONFIG = {"r": 4, "lora_alpha": 8, "target_modules": ["to_q", "to_k", "to_v"]}


@pytest.fixture
def factors() -> dict[str, torch.Tensor]:
    """A whole LoRA of rank 4 on three layers of each block, as diffusers names it."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"transformer.transformer_blocks.{block}.attn1.{layer}.lora_{half}.weight": torch.randn(
            shape, generator=generator
        )
        for block in (0, 1)
        for layer in ("to_k", "to_q", "to_v")
        for half, shape in (("A", (4, 32)), ("B", (32, 4)))
    }


def as_kohya(factors: dict[str, torch.Tensor], *, alpha: bool) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in factors.items():
        layer, half = name.removeprefix("transformer.").removesuffix(".weight").rsplit(".lora_", 1)
        stem = f"lora_unet_{layer.replace('.', '_')}"
        named[f"{stem}.lora_{'down' if half == 'A' else 'up'}.weight"] = tensor
        if alpha:
            named[f"{stem}.alpha"] = torch.tensor(4.0)
    return named


def as_peft(factors: dict[str, torch.Tensor], folder: Path) -> Path:
    folder.mkdir()
    tensors = {f"base_model.model.{name.removeprefix('transformer.')}": t for name, t in factors.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return folder


FORMS = {
    "diffusers": lambda tensors, folder: write(folder, tensors, **CONFIG),
    "diffusers without alpha": lambda tensors, folder: write(folder, tensors),
    "peft": as_peft,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", ["static", "quick"])
def test_a_whole_adapter_has_no_error(judged, healthy, factors, tmp_path, form, level):
    folder = FORMS[form](factors, tmp_path / "lora")

    assert judged("coverage", folder, healthy, level=level).findings == ()
    verdict = judged("sound_weights", folder, healthy, level=level)

    assert verdict.outcome is Outcome.PASSED
    assert [f.code for f in verdict.findings] == (["GM803"] if "without" in form else [])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("half", [A, B])
@pytest.mark.parametrize("level", ["static", "quick"])
def test_a_factor_that_is_missing_is_named(judged, healthy, factors, tmp_path, form, half, level):
    """diffusers leaves it on meta, where a run reads whatever lies in memory; PEFT alone would draw it anew."""
    del factors[half]
    folder = FORMS[form](factors, tmp_path / "lora")

    verdict = judged("coverage", folder, healthy, level=level)

    assert verdict.outcome is Outcome.FAILED
    [finding] = [f for f in verdict.findings if f.code == "GM801"]
    assert (finding.component, finding.location) == ("transformer", half.removeprefix("transformer."))
    assert finding.evidence["count"] == 1
    assert level == "static" or "1 of 12 factors of the loaded model is in no file" in finding.message
    assert level == "static" or "random: never loaded" in finding.message


@pytest.mark.parametrize("form", ["diffusers", "peft"])
def test_nothing_is_sampled_with_a_factor_that_was_never_loaded(judged, healthy, factors, tmp_path, form):
    del factors[B]

    verdict = judged("seeded_sampling", FORMS[form](factors, tmp_path / "lora"), healthy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "1 tensors of the transformer's adapter were never loaded" in verdict.reason
    assert LAYER in verdict.reason


def test_a_factor_of_the_file_that_the_load_left_on_meta_is_found(
    judged, healthy, factors, tmp_path, monkeypatch
):
    from diffusers import CogVideoXImageToVideoPipeline

    load = CogVideoXImageToVideoPipeline.load_lora_weights

    def load_and_forget(self, *args, **kwargs):
        load(self, *args, **kwargs)
        layer = self.transformer.get_submodule(LAYER).lora_A["candidate"]
        layer.weight = torch.nn.Parameter(layer.weight.to("meta"))

    monkeypatch.setattr(CogVideoXImageToVideoPipeline, "load_lora_weights", load_and_forget)

    [finding] = judged("coverage", FORMS["diffusers"](factors, tmp_path / "lora"), healthy).findings

    assert (finding.code, finding.location) == ("GM801", f"{LAYER}.lora_A.weight")
    assert "is in the file, and is random: never loaded" in finding.message


def test_a_factor_that_is_changed_while_it_is_attached_is_found(
    judged, healthy, factors, tmp_path, monkeypatch
):
    from diffusers import CogVideoXImageToVideoPipeline

    load = CogVideoXImageToVideoPipeline.load_lora_weights

    def load_and_double(self, *args, **kwargs):
        load(self, *args, **kwargs)
        with torch.no_grad():
            self.transformer.get_submodule(LAYER).lora_A["candidate"].weight.mul_(2)

    monkeypatch.setattr(CogVideoXImageToVideoPipeline, "load_lora_weights", load_and_double)

    [finding] = judged("coverage", FORMS["diffusers"](factors, tmp_path / "lora"), healthy).findings

    assert (finding.code, finding.location) == ("GM801", A)
    assert "other values" in finding.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("level", ["static", "quick"])
@pytest.mark.parametrize("form", ["diffusers", "peft"])
def test_a_factor_that_is_no_number_is_found(judged, healthy, factors, tmp_path, form, level, value):
    factors[B][3, 2] = value

    verdict = judged("sound_weights", FORMS[form](factors, tmp_path / "lora"), healthy, level=level)

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component) == ("GM304", "transformer")
    assert finding.location.endswith(f"{LAYER}.lora_B.weight")
    assert "1 of 128 values" in finding.message


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("level", ["static", "quick"])
def test_kohyas_names_are_translated_and_every_factor_is_covered(
    judged, healthy, factors, tmp_path, alpha, level
):
    folder = write(tmp_path / "kohya", as_kohya(factors, alpha=alpha))

    verdict = judged("coverage", folder, healthy, level=level)
    alone = judged("sound_weights", folder, healthy, level=level)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert [f.code for f in alone.findings] == ([] if alpha else ["GM803"])


@pytest.mark.parametrize("level", ["static", "quick"])
def test_an_adapter_without_any_lora_b_is_told(judged, healthy, factors, tmp_path, level):
    folder = write(tmp_path / "half", {name: t for name, t in factors.items() if "lora_A" in name})

    findings = judged("coverage", folder, healthy, level=level).findings

    assert [f.code for f in findings] == ["GM801"]
    assert "none of its 6 tensors is a lora_B" in findings[0].message


@pytest.mark.parametrize("level", ["static", "quick"])
def test_variants_that_peft_writes_are_whole(judged, healthy, tmp_path, level):
    """DoRA's magnitudes have names of their own."""
    folder = peft_folder(healthy, tmp_path / "dora", use_dora=True)

    assert judged("coverage", folder, healthy, level=level).findings == ()


@pytest.mark.parametrize("level", ["static", "quick"])
def test_a_damaged_pickle_of_factors_is_a_finding(judged, healthy, factors, tmp_path, level):
    folder = as_peft(factors, tmp_path / "lora")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"nothing")

    verdict = judged("coverage", folder, healthy, level=level)

    assert verdict.outcome is Outcome.FAILED
    assert [f.code for f in verdict.findings] == ["GM102"]


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda name: name.replace("transformer.", "unet.", 1), "match no layer of the model"),
        (lambda name: name.replace("blocks.1.", "blocks.99."), "match no layer of the model"),
        (
            lambda name: name.translate(str.maketrans("AB", "BA")) if "lora_" in name else name,
            "have a shape that does not fit their layer",
        ),
    ],
    ids=["another component", "a layer that is not there", "factors exchanged"],
)
def test_names_alone_show_that_a_factor_has_no_place(judged, healthy, factors, tmp_path, rename, said):
    renamed = {rename(name): tensor for name, tensor in factors.items()}

    verdict = judged("coverage", FORMS["diffusers"](renamed, tmp_path / "lora"), healthy, level="static")

    assert [finding.code for finding in verdict.findings] == ["GM801"]
    assert said in verdict.findings[0].message
