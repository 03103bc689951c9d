"""findings_at_rest: one streamed pass, no model, no reference; what is legitimate stays silent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.mapped import MappedWeights, Rows
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.progress import silent
from pytest_genmodel.checkpoints.weights import open_weights
from pytest_genmodel.diagnosis.at_rest import ema_findings, findings_at_rest, names, values
from pytest_genmodel.diagnosis.at_rest.adapter import partial
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.faults.registry import all_faults
from tests.editing import TO_Q, TRANSFORMER, edit_tensors

SEEN_BY_BOTH = (
    "lora_still_attached",
    "compiled_blocks",
    "embedding_lost",
    "placeholder_of_zero3",
    "whole_engine_in_one_file",
    "stale_safetensors",
    "result_beside_the_components",
    "class_of_its_own",
)


def found_in(path: Path) -> list[Finding]:
    return list(findings_at_rest(open_checkpoint(path, path.name)))


def part_of(tmp_path: Path, tensors: dict[str, torch.Tensor], name: str = "transformer") -> Part:
    file = tmp_path / "weights.safetensors"
    save_file(tensors, file)
    return Part(name, Component(name, tmp_path, "", "", weights_file=file), silent)


@pytest.mark.parametrize("name", SEEN_BY_BOTH)
def test_what_coverage_tells_is_seen_without_a_model_too(copy, name):
    fault = all_faults()[name]
    _, place = fault.inject(copy)

    findings = [f for f in found_in(copy) if f.severity and f.severity.value != "note"]

    assert [(f.code, f.component) for f in findings] == [(fault.code, place.component)]


def test_progress_ends_at_the_size_of_the_files(healthy):
    told: list[tuple[str, int, int, str]] = []

    list(findings_at_rest(open_checkpoint(healthy, "x"), lambda *call: told.append(call)))

    assert {unit for *_, unit in told} == {"B"}
    assert told[-1][1] == told[-1][2] > 0


def test_file_that_cannot_be_read_is_a_finding_and_the_others_are_examined(copy):
    (copy / TRANSFORMER).write_bytes(b"\xff" * 100)
    edit_tensors(copy / "vae/diffusion_pytorch_model.safetensors", lambda t: {n: v * 0 for n, v in t.items()})

    findings = found_in(copy)

    assert [(f.code, f.component) for f in findings] == [("GM101", "transformer"), ("GM307", "vae")]


@pytest.mark.parametrize(
    "tensors",
    [
        {"proj.bias": torch.zeros(64), "norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)},
        {"scale.gamma": torch.ones(64, 1, 1, 1)},
        {"attention_mask": torch.full((8, 8), float("-inf"))},
        {"mask": torch.full((8, 8), torch.finfo(torch.float32).min).triu(1)},
        {"position_ids": torch.zeros(1, 8, dtype=torch.int64), "steps": torch.tensor(3)},
        {"x.weight": torch.zeros(0), "scalar": torch.tensor(0.0)},
    ],
    ids=["vectors", "scales", "infinite mask", "extreme mask", "integers", "empty"],
)
def test_legitimate_values_are_silent(tmp_path, tensors):
    part = part_of(tmp_path, tensors)

    checks = (values.not_finite, values.zeros, values.constants, values.fresh, values.beyond_float16)
    assert [finding for check in checks for finding in check(part)] == []


def test_most_matrices_zero_is_an_error_and_one_is_a_warning(tmp_path):
    drawn = {f"block.{i}.weight": torch.randn(8, 8) for i in range(3)}
    cases = {"warning": 1, "error": 2}
    for severity, count in cases.items():
        zeroed = {n: t * 0 if i < count else t for i, (n, t) in enumerate(drawn.items())}
        (tmp_path / severity).mkdir()
        [finding] = values.zeros(part_of(tmp_path / severity, zeroed))
        assert finding.severity is not None
        assert (finding.severity.value, finding.evidence["count"]) == (severity, count)


def test_one_tensor_is_spoken_of_once(tmp_path):
    part = part_of(tmp_path, {"shared.weight": torch.full((64, 64), float("nan"))})

    checks = (values.not_finite, values.zeros, values.constants, values.narrow_values)
    assert [finding.code for check in checks for finding in check(part)] == ["GM304"]


def test_name_that_no_translation_explains_is_named(tmp_path):
    save_file({"a": torch.randn(4), "mystery": torch.randn(4)}, tmp_path / "w.safetensors")
    source = open_weights((tmp_path / "w.safetensors",))
    mapped = MappedWeights(source, {"b": Rows("a")}, unexplained=("mystery",))

    [finding] = names.untranslated(
        Part("transformer", Component("transformer", tmp_path, "", "", source=lambda: mapped), silent)
    )

    assert (finding.code, finding.location, finding.evidence["translated"]) == ("GM208", "mystery", 1)


# --- adapters -------------------------------------------------------------------------------------------------------


def lora(tmp_path: Path, layers: list[str], config: dict[str, object] | None = None) -> tuple[Part, Adapter]:
    shapes = {"A": (4, 32), "B": (32, 4)}
    tensors = {
        f"transformer.{layer}.lora_{half}.weight": torch.randn(shape)
        for layer in layers
        for half, shape in shapes.items()
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    weights = open_weights((tmp_path / "lora.safetensors",))
    return Part("transformer", None, silent, own_weights=weights), Adapter(
        tmp_path, tmp_path / "lora.safetensors", weights, config or {}
    )


def test_layers_without_factors_are_a_note_where_the_model_is_not_known(tmp_path):
    layers = [f"blocks.{i}.to_k" for i in range(4)] + [f"blocks.{i}.to_q" for i in range(2)]

    [finding] = partial(*lora(tmp_path, layers))

    assert (finding.code, finding.severity and finding.severity.value) == ("GM807", "note")
    assert "2 of 4 layers of one kind have no factors: blocks.{2..3}.to_q" in finding.message


@pytest.mark.parametrize(
    ("layers", "config"),
    [
        (["blocks.0.to_k", "blocks.1.to_k", "blocks.0.to_q"], {}),
        ([f"blocks.{i}.to_k" for i in range(4)] + ["blocks.0.to_q"], {"layers_to_transform": [0]}),
        ([f"blocks.{i}.to_k" for i in range(4)] + ["blocks.0.to_q"], {"target_modules": ["blocks.0.to_q"]}),
    ],
    ids=["the last block differs", "layers_to_transform", "targets by number"],
)
def test_layers_that_were_not_meant_are_no_finding(tmp_path, layers, config):
    assert list(partial(*lora(tmp_path, layers, config))) == []


# --- averages -------------------------------------------------------------------------------------------------------


@pytest.fixture
def triple(healthy, tmp_path):
    """Raw, average and start of one denoiser, all equal."""
    folders = [tmp_path / name for name in ("raw", "ema", "start")]
    for folder in folders:
        shutil.copytree(healthy / "transformer", folder)
    return [Component("transformer", f, "diffusers", "CogVideoXTransformer3DModel") for f in folders]


def moved(component: Component, by: float) -> None:
    edit_tensors(
        component.folder / Path(TRANSFORMER).name,
        lambda tensors: tensors | {TO_Q: tensors[TO_Q] * (1 + by)},
    )


@pytest.mark.parametrize(
    ("raw", "ema", "with_start", "code"),
    [
        (0.2, 0.1, True, None),
        (0.2, 0.1, False, None),
        (0.2, 0.2, False, "GM310"),
        (0.2, 0.2, True, "GM310"),
        (0.2, 0.0, True, "GM311"),
        (0.0, 0.0, True, "GM302"),
    ],
)
def test_average_against_raw_and_start(triple, raw, ema, with_start, code):
    moved(triple[0], raw)
    moved(triple[1], ema)

    findings = list(ema_findings(triple[0], triple[1], triple[2] if with_start else None))

    assert [finding.code for finding in findings] == ([code] if code else [])


def test_average_in_another_dtype_is_compared_by_its_numbers(triple):
    edit_tensors(
        triple[1].folder / Path(TRANSFORMER).name,
        lambda t: {name: tensor.double() for name, tensor in t.items()},
    )

    assert [finding.code for finding in ema_findings(triple[0], triple[1])] == ["GM310"]


@pytest.mark.parametrize(
    ("factor", "codes"), [(0.5, []), (-0.5, []), (2.9, []), (4.0, ["GM323"]), (-2.0, ["GM323"])]
)
@pytest.mark.parametrize("with_start", [True, False])
def test_average_that_ran_away(triple, factor, codes, with_start):
    raw, ema, start = triple
    moved(raw, 0.1)
    edit_tensors(
        ema.folder / Path(TRANSFORMER).name,
        lambda tensors: {name: tensor * factor for name, tensor in tensors.items()},
    )

    findings = list(ema_findings(raw, ema, start if with_start else None))

    assert [(f.code, f.component, f.location) for f in findings] == [
        (code, "transformer", "ema/") for code in codes
    ]


# --- files ----------------------------------------------------------------------------------------------------------


def test_script_that_a_trainer_leaves_is_a_note_and_another_a_warning(copy):
    (copy / "zero_to_fp32.py").write_text("")
    (copy / "run.py").write_text("")

    findings = [(f.location, f.severity and f.severity.value) for f in found_in(copy)]

    assert findings == [("zero_to_fp32.py", "note"), ("run.py", "warning")]


def test_configuration_that_asks_for_code_is_found(copy):
    config = copy / "transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}))

    [finding] = found_in(copy)

    assert (finding.code, finding.component, finding.location) == (
        "GM110",
        "transformer",
        "config.json:auto_map",
    )
    assert "evil.Model" in finding.message


def test_index_that_only_counts_bytes_otherwise_is_a_note(copy):
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel.from_pretrained(copy / "transformer")
    shutil.rmtree(copy / "transformer")
    model.save_pretrained(copy / "transformer", max_shard_size="40KB")
    [path] = (copy / "transformer").glob("*.index.json")
    index = json.loads(path.read_text())
    index["metadata"]["total_size"] += 8
    path.write_text(json.dumps(index))

    [finding] = found_in(copy)

    assert (finding.code, finding.severity and finding.severity.value) == ("GM111", "note")
