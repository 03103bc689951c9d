"""same_weights: exact, by expectation; lossless casts are equal, roundings are not."""

from __future__ import annotations

import shutil

import pytest
import torch

from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TO_Q, TRANSFORMER, VAE, drop_tensors, edit_tensors

CONV = "decoder.conv_in.conv.weight"


def scaled(name: str, factor: float):
    return lambda tensors: tensors | {name: tensors[name] * factor}


def cast(*dtypes: torch.dtype):
    def change(tensors):
        for dtype in dtypes:
            tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        return tensors

    return change


def test_holds_for_a_copy_and_counts_every_tensor(judged, copy, healthy):
    verdict = judged("same_weights", copy, healthy)

    assert verdict.outcome is Outcome.PASSED
    assert verdict.measurements["tensors_compared"] > 300
    assert verdict.measurements["transformer"]["changed"] == 0


def test_is_skipped_without_a_reference_and_says_how_to_give_one(judged, healthy):
    verdict = judged("same_weights", healthy)

    assert verdict.outcome is Outcome.SKIPPED
    assert "--genmodel-ref" in verdict.reason


def test_forbidden_change_is_named_with_what_it_looks_like(judged, copy, healthy):
    edit_tensors(copy / VAE, scaled(CONV, 1.01))

    verdict = judged("same_weights", copy, healthy)

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component, finding.location) == ("GM301", "vae", CONV)
    assert finding.evidence["worst"][CONV]["likeness"] == "scaled"
    assert "1.01" in finding.message


def test_uniform_rescale_of_the_denoiser_is_always_measured(judged, copy, healthy):
    edit_tensors(copy / TRANSFORMER, lambda tensors: {name: t * 1.01 for name, t in tensors.items()})

    verdict = judged("same_weights", copy, healthy)

    assert verdict.outcome is Outcome.PASSED
    assert verdict.measurements["transformer"]["largest_relative_norm_change"] == pytest.approx(
        0.01, rel=1e-3
    )
    assert [(f.code, f.severity.value) for f in verdict.findings] == [("GM316", "warning")]
    assert "times 1.01" in verdict.findings[0].message


@pytest.mark.parametrize(
    ("expect", "change", "outcome", "code"),
    [
        ("identical", True, Outcome.FAILED, "GM301"),
        ("identical", False, Outcome.PASSED, None),
        ("finetuned", True, Outcome.PASSED, "GM306"),
        ("finetuned", False, Outcome.FAILED, "GM302"),
        ("adapter", True, Outcome.FAILED, "GM301"),
        ("adapter", False, Outcome.FAILED, "GM302"),
        (None, True, Outcome.PASSED, "GM306"),
        (None, False, Outcome.PASSED, None),
    ],
)
def test_expectation_decides(judged, copy, healthy, expect, change, outcome, code):
    if change:
        edit_tensors(copy / TRANSFORMER, scaled(TO_Q, 1.5))

    verdict = judged("same_weights", copy, healthy, expect=expect)

    assert verdict.outcome is outcome
    assert code in [finding.code for finding in verdict.findings] or code is None


def test_cast_that_loses_nothing_is_equal(judged, healthy, tmp_path):
    half = shutil.copytree(healthy, tmp_path / "half")
    edit_tensors(half / TRANSFORMER, cast(torch.float16))
    wide = shutil.copytree(half, tmp_path / "wide")
    edit_tensors(wide / TRANSFORMER, cast(torch.float32))

    verdict = judged("same_weights", wide, half, expect="identical")

    assert verdict.outcome is Outcome.PASSED
    [finding] = verdict.findings
    assert (finding.code, finding.severity.value) == ("GM213", "note")
    assert "F16 to F32" in finding.message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_not_equal(judged, copy, healthy, dtype):
    edit_tensors(copy / VAE, cast(dtype))

    findings = judged("same_weights", copy, healthy).findings

    assert [finding.code for finding in findings] == ["GM305"]
    assert str(dtype).removeprefix("torch.") in findings[0].message


def test_rounding_there_and_back_is_recognised(judged, copy, healthy):
    edit_tensors(copy / VAE, cast(torch.bfloat16, torch.float32))

    [finding] = judged("same_weights", copy, healthy).findings

    assert finding.code == "GM301"
    assert "bfloat16" in finding.message


def test_missing_and_added_tensors_are_named(judged, copy, healthy):
    drop_tensors(copy / VAE, CONV)
    edit_tensors(copy / VAE, lambda tensors: tensors | {"new.weight": torch.ones(2)})

    findings = judged("same_weights", copy, healthy).findings

    assert [(f.code, f.location) for f in findings] == [("GM207", CONV), ("GM207", "new.weight")]


def test_resharded_reordered_model_is_the_same(judged, copy, healthy):
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel.from_pretrained(copy / "transformer")
    shutil.rmtree(copy / "transformer")
    model.save_pretrained(copy / "transformer", max_shard_size="40KB")

    verdict = judged("same_weights", copy, healthy, expect="identical")

    assert verdict.outcome is Outcome.PASSED
    assert [(f.code, f.location) for f in verdict.findings] == [("GM213", "patch_embed.pos_embedding")]


def test_values_of_the_founding_incident_are_those_of_the_reference(judged, healthy, tmp_path):
    findings = judged("same_weights", adapter_wrapped(healthy, tmp_path / "incident"), healthy).findings

    assert [f.code for f in findings if f.severity.value != "note"] == ["GM203"]


def test_same_files_need_no_reading(judged, healthy):
    verdict = judged("same_weights", healthy, healthy)

    assert verdict.outcome is Outcome.PASSED
    assert verdict.measurements["tensors_compared"] > 300


# --- what is said where figures fail, and how a rounding weighs -----------------------------------------------------


def everywhere(change):
    return lambda tensors: {name: change(tensor) for name, tensor in tensors.items()}


def plain_json(value):
    import json

    return json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    ("expect", "component", "found", "outcome"),
    [
        ("identical", TRANSFORMER, [("GM305", "error")], Outcome.FAILED),
        ("finetuned", VAE, [("GM305", "error")], Outcome.FAILED),
        ("finetuned", TRANSFORMER, [("GM302", "error"), ("GM305", "warning")], Outcome.FAILED),
        (None, TRANSFORMER, [("GM305", "warning")], Outcome.PASSED),
    ],
)
def test_rounding_weighs_as_the_contract_says(judged, copy, healthy, expect, component, found, outcome):
    edit_tensors(copy / component, cast(torch.bfloat16))

    verdict = judged("same_weights", copy, healthy, expect=expect)

    of_component = [f for f in verdict.findings if f.component == component.split("/")[0]]
    assert [(f.code, f.severity.value) for f in of_component] == found
    assert verdict.outcome is outcome


def test_rounded_and_trained_is_a_change(judged, copy, healthy):
    edit_tensors(copy / TRANSFORMER, scaled(TO_Q, 1.5))
    edit_tensors(copy / TRANSFORMER, cast(torch.bfloat16))

    verdict = judged("same_weights", copy, healthy, expect="finetuned")

    assert [(f.code, f.severity.value) for f in verdict.findings] == [
        ("GM305", "note"),
        ("GM306", "note"),
    ]
    assert verdict.outcome is Outcome.PASSED


@pytest.mark.parametrize("code", ["GM301", "GM305"])
def test_advice_names_only_what_exists(code):
    import re

    from pytest_genmodel.diagnosis.rules import RULES
    from pytest_genmodel.options import OPTIONS

    flags = {option.flag for option in OPTIONS}
    action = RULES[code].action
    assert set(re.findall(r"--[\w-]+", action)) <= flags
    assert "declare" not in action
    assert "--genmodel-ref" in action, "what can always be done: judge it by another reference"


def test_weights_on_one_side_only_are_found(judged, copy, healthy):
    (copy / VAE).unlink()

    for candidate, reference, without in ((copy, healthy, "candidate"), (healthy, copy, "reference")):
        [finding] = judged("same_weights", candidate, reference).findings
        assert (finding.code, finding.component, finding.location) == ("GM206", "vae", "vae/")
        assert f"of the {without} holds no weights" in finding.message


def test_reference_of_zeros_gives_no_infinite_figure(judged, copy, healthy, tmp_path):
    zero = shutil.copytree(healthy, tmp_path / "zero")
    edit_tensors(zero / VAE, scaled(CONV, 0.0))

    verdict = judged("same_weights", copy, zero)

    [finding] = verdict.findings
    assert (finding.code, finding.location) == ("GM301", CONV)
    assert "the reference is all zero; max |a-b| " in finding.message
    assert "inf" not in finding.message
    assert finding.evidence["worst"][CONV]["relative_difference"] is None
    assert verdict.measurements["vae"]["without_figure"] == 1
    plain_json([finding.evidence, verdict.measurements])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_counted_not_measured(judged, copy, healthy, value):
    def spoil(tensors):
        tensors[CONV].view(-1)[:3] = value

    edit_tensors(copy / VAE, spoil)

    verdict = judged("same_weights", copy, healthy)

    assert [finding.code for finding in verdict.findings] == ["GM304", "GM301"]
    assert "1 tensor holds NaN or Inf" in verdict.findings[0].message
    assert "3 of " in verdict.findings[1].message
    assert "of its values are NaN or Inf" in verdict.findings[1].message
    assert "relative difference 0" not in verdict.findings[1].message
    plain_json([verdict.findings[1].evidence, verdict.measurements])


def test_worst_is_what_cannot_be_measured(judged, copy, healthy):
    edit_tensors(copy / TRANSFORMER, everywhere(lambda tensor: tensor * 3))
    edit_tensors(
        copy / TRANSFORMER, lambda tensors: tensors | {TO_Q: torch.full_like(tensors[TO_Q], float("nan"))}
    )

    findings = judged("same_weights", copy, healthy).findings

    assert [f.code for f in findings] == ["GM304", "GM316", "GM306"]
    assert (findings[0].location, findings[2].location) == (TO_Q, TO_Q)


def test_file_of_nan_is_found_at_the_static_level(judged, copy, healthy):
    edit_tensors(copy / TRANSFORMER, everywhere(lambda tensor: torch.full_like(tensor, float("nan"))))

    verdict = judged("same_weights", copy, healthy, level="static")

    assert verdict.outcome is Outcome.FAILED
    first = verdict.findings[0]
    assert first.code == "GM304"
    assert first.evidence["count"] == verdict.measurements["transformer"]["compared"]
    plain_json(verdict.to_json())


def test_another_shape_is_said_as_one(judged, copy, healthy):
    edit_tensors(copy / VAE, lambda tensors: tensors | {CONV: tensors[CONV][:1].clone()})

    verdict = judged("same_weights", copy, healthy)

    assert [finding.code for finding in verdict.findings] == ["GM301"]
    assert "its shape is [1, " in verdict.findings[0].message
    plain_json([verdict.findings[0].evidence, verdict.measurements])


def test_note_of_a_change_leads_with_how_many_and_the_change_of_the_norm(judged, copy, healthy):
    edit_tensors(copy / TRANSFORMER, everywhere(lambda tensor: tensor + 0.01 * tensor.roll(1)))

    [finding] = judged("same_weights", copy, healthy).findings

    count = finding.evidence["count"]
    assert finding.message.startswith(
        f"{count} of {count} tensors differ from the reference's, their norms by up to 0.0"
    )
    assert "half of all tensors moved by at most 0.0" in finding.message
    assert finding.evidence["drift"]["median"] == pytest.approx(0.01, rel=0.2)


def test_float8_is_compared_too(judged, copy, healthy):
    edit_tensors(copy / TRANSFORMER, cast(torch.float8_e4m3fn))

    verdict = judged("same_weights", copy, healthy)

    assert [finding.code for finding in verdict.findings] == ["GM305"]
    assert "float8_e4m3fn" in verdict.findings[0].message


# --- an adapter that is expected must act ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora(healthy, tmp_path_factory):
    from pytest_genmodel.training.lora import train_lora

    return train_lora(healthy, lr=1e-2, steps=1, seed=0, output=tmp_path_factory.mktemp("lora") / "lora")


def adapter_of(lora, tmp_path, change):
    adapter = shutil.copytree(lora, tmp_path / "adapter")
    edit_tensors(adapter / "pytorch_lora_weights.safetensors", change)
    return adapter


def renamed(tensors, factor=1.0):
    return {
        name.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): tensor * factor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("expect", ["adapter", "finetuned"])
def test_trained_adapter_is_what_was_expected(judged, healthy, lora, expect):
    verdict = judged("same_weights", lora, healthy, expect=expect)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (everywhere(torch.zeros_like), "all 8 up factors of the adapter"),
        (lambda tensors: renamed(tensors, 0.0), "all 8 up factors of the adapter"),
        (lambda tensors: {n: t for n, t in tensors.items() if "lora_A" in n}, "holds no up factor"),
    ],
    ids=["zero lora_B", "zero lora_up", "none"],
)
def test_adapter_that_changes_nothing_did_not_learn(judged, healthy, lora, tmp_path, change, words):
    adapter = adapter_of(lora, tmp_path, change)

    verdict = judged("same_weights", adapter, healthy, expect="adapter")

    assert verdict.outcome is Outcome.FAILED
    [finding] = verdict.findings
    assert (finding.code, finding.component) == ("GM302", "transformer")
    assert words in finding.message
    assert judged("same_weights", adapter, healthy, expect="finetuned").findings == verdict.findings
    assert judged("same_weights", adapter, healthy).findings == (), "without an expectation coverage warns"


def test_adapter_in_which_one_factor_moved_has_learned(judged, healthy, lora, tmp_path):
    def keep_one(tensors):
        first = next(name for name in tensors if "lora_B" in name)
        return {
            name: tensor if name == first or "lora_A" in name else torch.zeros_like(tensor)
            for name, tensor in tensors.items()
        }

    assert (
        judged("same_weights", adapter_of(lora, tmp_path, keep_one), healthy, expect="adapter").findings == ()
    )
