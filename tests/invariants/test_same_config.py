"""same_config: effective values, the schedule, and token ids."""

from __future__ import annotations

import shutil

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import edit_json

SCHEDULER = "scheduler/scheduler_config.json"


def test_holds_for_a_copy(judged, copy, healthy):
    verdict = judged("same_config", copy, healthy)

    assert verdict.outcome is Outcome.PASSED
    assert verdict.findings == ()
    assert verdict.measurements["values_compared"] > 50


@pytest.mark.parametrize(
    ("file", "key", "value", "component"),
    [
        (SCHEDULER, "prediction_type", "epsilon", "scheduler"),
        (SCHEDULER, "rescale_betas_zero_snr", False, "scheduler"),
        (SCHEDULER, "snr_shift_scale", 3.0, "scheduler"),
        ("vae/config.json", "scaling_factor", 1.15258426, "vae"),
        ("vae/config.json", "invert_scale_latents", True, "vae"),
        ("transformer/config.json", "norm_eps", 1e-6, "transformer"),
        ("transformer/config.json", "flip_sin_to_cos", False, "transformer"),
        ("text_encoder/config.json", "layer_norm_epsilon", 1e-3, "text_encoder"),
    ],
)
def test_value_that_acts_is_found_at_its_key(judged, copy, healthy, file, key, value, component):
    edit_json(copy / file, **{key: value})

    findings = judged("same_config", copy, healthy).findings

    first = findings[0]
    assert first.code == "GM401"
    assert (first.component, first.location) == (component, f"{file.split('/')[1]}:{key}")
    assert first.evidence["candidate"] == value


def test_removed_value_counts_as_its_default(judged, copy, healthy):
    edit_json(copy / SCHEDULER, prediction_type=...)

    first = judged("same_config", copy, healthy).findings[0]

    assert first.location == "scheduler_config.json:prediction_type"
    assert first.evidence == {"candidate": "epsilon", "reference": "v_prediction", "is_default": True}


def test_schedule_is_compared_as_arrays(judged, copy, healthy):
    edit_json(copy / SCHEDULER, timestep_spacing="leading")

    findings = judged("same_config", copy, healthy).findings

    assert "GM402" in [finding.code for finding in findings]


def test_other_scheduler_class_is_found(judged, copy, healthy):
    edit_json(copy / "model_index.json", scheduler=["diffusers", "CogVideoXDPMScheduler"])

    findings = judged("same_config", copy, healthy).findings

    assert ("GM401", "model_index.json:scheduler") in [(f.code, f.location) for f in findings]


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (SCHEDULER, {"clip_sample": True}),
        (SCHEDULER, {"_diffusers_version": "0.30.0"}),
        (SCHEDULER, {"set_alpha_to_one": ...}),
        ("transformer/config.json", {"_name_or_path": "/somewhere/else"}),
        ("transformer/config.json", {"left_over_of_an_older_class": 3}),
        ("text_encoder/config.json", {"transformers_version": "4.1.0", "torch_dtype": "float16"}),
        ("vae/config.json", {"norm_eps": ...}),
    ],
)
def test_what_does_not_act_is_no_difference(judged, copy, healthy, file, changes):
    edit_json(copy / file, **changes)

    assert judged("same_config", copy, healthy).findings == ()


def test_size_of_training_is_a_warning(judged, copy, healthy):
    edit_json(copy / "transformer/config.json", sample_frames=13)

    verdict = judged("same_config", copy, healthy)

    assert [(f.code, f.severity.value) for f in verdict.findings] == [("GM404", "warning")]
    assert verdict.outcome is Outcome.PASSED


def test_value_of_another_kind_is_said_in_one_line_and_is_no_crash_of_ours(
    judged, copy, healthy, monkeypatch
):
    """transformers checks the kinds of fields from version 5 on, each class in its own way."""
    from transformers import T5Config

    own = T5Config.from_dict

    def strict(values, **options):
        if not isinstance(values["d_model"], int):
            raise TypeError("Field 'd_model' expected int\nand more")
        return own(values, **options)

    monkeypatch.setattr(T5Config, "from_dict", strict)
    edit_json(copy / "text_encoder" / "config.json", d_model=1.5)

    verdict = judged("same_config", copy, healthy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == "text_encoder/config.json: T5Config refuses it (Field 'd_model' expected int)"


def test_other_vocabulary_gives_other_ids(judged, copy, healthy):
    file = copy / "tokenizer" / "tokenizer.json"
    file.write_text(file.read_text().replace("red", "der"))

    findings = judged("same_config", copy, healthy).findings

    assert [finding.code for finding in findings] == ["GM403"]
    assert findings[0].evidence["text"] == "a red square moves right"


@pytest.mark.parametrize(
    "changes",
    [
        {"a_key_that_no_class_knows": 3},
        {"task_specific_params": {"summarization": {"prefix": "summarize: "}}},
        {"n_positions": 512, "output_past": True},
        {"num_heads": ..., "num_attention_heads": 4},
    ],
    ids=["unknown", "old T5", "older T5", "another spelling of a known key"],
)
def test_key_that_a_transformers_class_does_not_know_is_no_difference(judged, copy, healthy, changes):
    edit_json(copy / "text_encoder/config.json", **changes)

    assert judged("same_config", copy, healthy).findings == ()
    assert judged("same_config", healthy, copy).findings == ()


def test_unknown_key_within_a_part_of_a_configuration_is_no_difference(tmp_path):
    """CLIP and its kind are made of configurations."""
    import json

    from transformers import CLIPConfig

    from pytest_genmodel.checkpoints.component import Component
    from pytest_genmodel.pipelines.effective import differences, effective_config

    def component(name: str, **vision) -> Component:
        folder = tmp_path / name
        folder.mkdir()
        config = CLIPConfig(vision_config={"num_hidden_layers": 2}).to_dict()
        config["vision_config"] |= vision
        (folder / "config.json").write_text(json.dumps(config))
        return Component("image_encoder", folder, "transformers", "CLIPModel")

    plain = effective_config(component("plain"))

    assert differences(effective_config(component("unknown", left_over=1)), plain) == {}
    assert list(differences(effective_config(component("other", num_hidden_layers=3)), plain)) == [
        "vision_config.num_hidden_layers"
    ]


def test_key_of_the_model_index_that_the_pipeline_does_not_take_is_no_difference(judged, copy, healthy):
    edit_json(copy / "model_index.json", a_key_of_an_older_class=True)

    assert judged("same_config", copy, healthy).findings == ()


def test_argument_that_the_pipeline_takes_is_compared_with_its_default(judged, copy, healthy, monkeypatch):
    from diffusers import CogVideoXImageToVideoPipeline

    make = CogVideoXImageToVideoPipeline.__init__

    def make_with_ratio(
        self, tokenizer, text_encoder, vae, transformer, scheduler, boundary_ratio: float | None = 0.5
    ):
        make(self, tokenizer, text_encoder, vae, transformer, scheduler)

    monkeypatch.setattr(CogVideoXImageToVideoPipeline, "__init__", make_with_ratio)
    edit_json(copy / "model_index.json", boundary_ratio=0.5)
    assert judged("same_config", copy, healthy).findings == ()

    edit_json(copy / "model_index.json", boundary_ratio=0.9)
    [finding] = judged("same_config", copy, healthy).findings
    assert (finding.code, finding.location) == ("GM401", "model_index.json:boundary_ratio")
    assert finding.evidence == {"candidate": 0.9, "reference": 0.5}


def test_guidance_that_a_pipeline_stores_in_a_guider_is_compared(judged, copy, healthy, tmp_path):
    """HunyuanVideo 1.5 and Motif keep the strength of guidance in a component of its own."""
    from diffusers import ClassifierFreeGuidance

    reference = shutil.copytree(healthy, tmp_path / "reference")
    for folder, strength in ((copy, 1.0), (reference, 6.0)):
        edit_json(folder / "model_index.json", guider=["diffusers", "ClassifierFreeGuidance"])
        ClassifierFreeGuidance(guidance_scale=strength).save_pretrained(folder / "guider")

    [finding] = judged("same_config", copy, reference).findings

    assert (finding.code, finding.component) == ("GM401", "guider")
    assert finding.location == "guider_config.json:guidance_scale"
