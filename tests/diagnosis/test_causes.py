"""What leads, what it explains, how sure it is and what is ruled out: on records made by hand."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from pytest_genmodel.diagnosis.causes import Cause, Confidence, causes
from pytest_genmodel.diagnosis.causes.relations import BLOCKS, RELATIONS
from pytest_genmodel.diagnosis.causes.stages import MARKS, STAGES, stage_of
from pytest_genmodel.diagnosis.rules import RULES

SECTIONS = {"seeded_sampling": "sampling", "sound_video": "sampling", "denoiser_call": "sampling"}


def finding(
    code: str,
    component: str | None = None,
    location: str | None = None,
    severity: str = "error",
    **evidence: Any,
) -> dict[str, Any]:
    return {
        "code": code,
        "title": f"title of {code}",
        "severity": severity,
        "component": component,
        "location": location,
        "message": "m",
        "cause": None,
        "action": "a",
        "evidence": evidence,
    }


def verdict(
    invariant: str,
    *findings: dict[str, Any],
    outcome: str | None = None,
    reason: str | None = None,
    **measured: Any,
) -> dict[str, Any]:
    fails = any(found["severity"] == "error" for found in findings)
    return {
        "invariant": invariant,
        "id": f"genmodel::{SECTIONS.get(invariant, 'checkpoint')}::{invariant}",
        "candidate": "run-17",
        "outcome": outcome or ("failed" if fails else "passed"),
        "reason": reason,
        "measurements": measured,
        "findings": list(findings),
    }


def weights(*same: str, changed: tuple[str, ...] = (), **measured: Any) -> dict[str, Any]:
    figures = {name: {"compared": 10, "changed": 0, "rounded": 0} for name in same}
    figures |= {name: {"compared": 10, "changed": 1, "rounded": 0} for name in changed}
    return verdict("same_weights", **figures, **measured)


CONFIG = verdict("same_config", values_compared=94)
SCHEDULE = verdict("sound_schedule", steps=4)
COVERAGE = verdict("coverage", tensors_compared=30)
SOUND = verdict("sound_weights", tensors_examined=30)
SEEDED = verdict("seeded_sampling", steps=4)
TAKES_IMAGE = verdict("conditions_matter", effects={"image": 0.1, "prompt": 0.2})


def explained(cause: Cause) -> list[str]:
    return [one.code for one in cause.explains]


def leads(*verdicts: dict[str, Any]) -> list[str]:
    return [cause.code for cause in causes(verdicts)]


def test_sound_candidate_has_no_cause():
    assert causes([COVERAGE, SOUND, weights("vae"), CONFIG, SCHEDULE, SEEDED]) == ()
    assert causes([]) == ()


def test_note_and_what_is_allowed_are_no_cause():
    note = finding("GM306", "transformer", severity="note")
    allowed = finding("GM301", "vae", severity="note") | {"allowed": {"reason": "on purpose"}}

    assert causes([verdict("same_weights", note, allowed)]) == ()


def test_missing_tensors_explain_what_could_not_be_run_and_the_bad_sample():
    missing = finding(
        "GM201", "transformer", "blocks.0.to_q.weight", count=1, tensors=["blocks.0.to_q.weight"]
    )
    other = finding("GM207", "transformer", "blocks.0.to_q.weight", count=1)
    reason = "1 tensors of the transformer were never loaded (blocks.0.to_q.weight first)"

    [cause] = causes(
        [
            verdict("sound_video", finding("GM920", None, "frame 3")),
            verdict("seeded_sampling", outcome="inconclusive", reason=reason),
            verdict("same_weights", other),
            verdict("coverage", missing),
        ]
    )

    assert (cause.code, cause.component, cause.location) == ("GM201", "transformer", "blocks.0.to_q.weight")
    assert cause.id == "genmodel::checkpoint::coverage"
    assert cause.confidence is Confidence.CERTAIN
    assert explained(cause) == ["GM207", "GM920"]
    assert [entry.invariant for entry in cause.unjudged] == ["seeded_sampling"]


def test_alpha_that_is_lost_explains_the_drift_and_is_likely():
    alpha = finding("GM803", "transformer", "lora.safetensors:lora_alpha", "warning")
    drift = finding("GM911", "text_encoder", "prompt")

    [cause] = causes([verdict("sound_weights", alpha), verdict("conditions_matter", drift)])
    [alone] = causes([verdict("sound_weights", alpha)])

    assert (cause.code, explained(cause), cause.confidence) == ("GM803", ["GM911"], Confidence.LIKELY)
    assert alone.confidence is Confidence.POSSIBLE


def test_two_damages_are_two_causes_and_both_explain_the_sample():
    tensor = finding("GM201", "transformer", "proj_out.weight")
    key = finding("GM401", "vae", "config.json:scaling_factor")
    video = finding("GM923", None, "frame 0")

    first, second = causes(
        [verdict("same_config", key), verdict("coverage", tensor), verdict("sound_video", video)]
    )

    assert [first.code, second.code] == ["GM201", "GM401"]
    assert explained(first) == explained(second) == ["GM923"]
    assert first.confidence is second.confidence is Confidence.CERTAIN


def test_two_keys_of_one_component_are_named_both():
    keys = [finding("GM401", "vae", f"config.json:{key}") for key in ("scaling_factor", "norm_num_groups")]

    [cause] = causes([verdict("same_config", *keys)])

    assert cause.locations == ("config.json:scaling_factor", "config.json:norm_num_groups")


def test_damage_of_the_decoder_explains_frames_and_no_latents():
    weight = finding("GM301", "vae", "decoder.conv_in.weight", tensors=["decoder.conv_in.weight"])
    frames, steps = finding("GM926", None, "frame 0"), finding("GM925", None, "step 1")

    assert leads(verdict("same_weights", weight), verdict("sound_video", frames), TAKES_IMAGE) == ["GM301"]
    assert leads(verdict("same_weights", weight), verdict("sound_video", steps), TAKES_IMAGE) == [
        "GM301",
        "GM925",
    ]


@pytest.mark.parametrize(("known", "expected"), [(True, ["GM401"]), (False, ["GM401", "GM925"])])
def test_vae_explains_latents_where_an_image_is_known_to_go_through_it(known, expected):
    key, latents = finding("GM401", "vae", "config.json:scaling_factor"), finding("GM925", None, "step 1")
    seen = [verdict("same_config", key), verdict("sound_video", latents)]

    assert leads(*seen, *([TAKES_IMAGE] if known else [])) == expected


@pytest.mark.parametrize(
    ("component", "argument", "is_explained"),
    [
        ("text_encoder", "encoder_hidden_states", True),
        ("tokenizer", "encoder_hidden_states", True),
        ("vae", "encoder_hidden_states", False),
        ("vae", "hidden_states[channels 4:8]", True),
        ("text_encoder", "hidden_states[channels 4:8]", False),
        ("scheduler", "timestep", True),
        ("transformer", "timestep", False),
        ("image_encoder", "encoder_hidden_states_image", True),
    ],
)
def test_argument_is_explained_by_who_makes_it(component, argument, is_explained):
    code = {"scheduler": "GM401", "tokenizer": "GM403"}.get(component, "GM301")
    seen = verdict("same_weights", finding(code, component, "somewhere"))

    found = causes([seen, verdict("denoiser_call", finding("GM901", None, argument))])

    assert (len(found) == 1) is is_explained


def test_component_that_answers_otherwise_is_explained_by_its_own_files_alone():
    call = verdict("denoiser_call", finding("GM907", "transformer", "transformer"))

    assert leads(verdict("same_weights", finding("GM301", "text_encoder")), call) == ["GM301", "GM907"]
    assert leads(verdict("same_weights", finding("GM301", "transformer")), call) == ["GM301"]


def test_configuration_leads_over_names_where_the_weights_are_the_reference_s():
    key = verdict("same_config", finding("GM401", "transformer", "config.json:num_layers"))
    name = verdict("coverage", finding("GM201", "transformer", "blocks.2.weight"))

    assert leads(name, key, weights("transformer")) == ["GM401"]
    assert leads(name, key, weights(changed=("transformer",))) == ["GM201", "GM401"]
    assert leads(name, key) == ["GM201", "GM401"]


def test_what_a_trainer_wrote_is_no_fault_of_the_candidate():
    saved = verdict("save_load_round_trip", finding("GM602", "vae", "vae:scaling_factor"))
    trained = verdict("zero_lr_identity", finding("GM401", "vae", "config.json:scaling_factor"))

    [cause] = causes([trained, saved])

    assert (cause.code, explained(cause)) == ("GM602", ["GM401"])
    assert [found.stage for found in causes([trained])] == ["training"]


def test_run_that_does_not_repeat_itself_explains_what_it_is_compared_by():
    [cause] = causes(
        [
            verdict("seeded_sampling", finding("GM502", None, "step 1")),
            verdict("zero_lr_identity", finding("GM705", None, "step 1")),
            verdict("reproducible", outcome="inconclusive", reason="the control 'same again' fails"),
        ]
    )

    assert (cause.code, explained(cause)) == ("GM502", ["GM705"])
    assert [entry.invariant for entry in cause.unjudged] == ["reproducible"]


def test_rate_that_was_not_zero_explains_what_moved_and_is_likely():
    rate, moved = finding("GM701", None, "step 1"), finding("GM702", "transformer", "optimizer")
    sample = finding("GM705", None, "step 1")

    [cause] = causes([verdict("zero_lr_identity", sample, moved, rate)])

    assert (cause.code, explained(cause)) == ("GM701", ["GM705", "GM702"])
    assert cause.confidence is Confidence.LIKELY, "seen in the trainer itself, whatever the files are"


def test_part_that_was_shown_to_carry_the_damage_leads():
    keys = [
        verdict("same_weights", finding("GM301", "text_encoder", "shared.weight")),
        verdict("same_config", finding("GM401", "vae", "config.json:scaling_factor")),
    ]
    carries = verdict("swap_bisection", finding("GM960", "vae", "config.json:scaling_factor"))

    assert leads(*keys) == ["GM301", "GM401"]
    assert leads(*keys, carries) == ["GM401", "GM301"]


def test_errors_come_before_warnings_and_what_explains_an_error_among_them():
    stray = finding("GM106", None, "best.safetensors", "warning")
    alpha = finding("GM803", "transformer", "lora.safetensors:lora_alpha", "warning")
    key = finding("GM401", "scheduler", "scheduler_config.json:prediction_type")

    assert leads(verdict("coverage", stray), verdict("same_config", key)) == ["GM401", "GM106"]
    drift = verdict("sound_video", finding("GM926", None, "frame 1"))
    assert leads(verdict("coverage", stray), verdict("sound_weights", alpha), drift) == ["GM803", "GM106"]


def test_mark_that_the_reference_confirms_is_certain():
    zeros = finding("GM307", "text_encoder", "shared.weight", tensors=["shared.weight"])
    changed = finding("GM301", "text_encoder", "shared.weight")

    [alone] = causes([verdict("sound_weights", zeros)])
    [confirmed] = causes([verdict("sound_weights", zeros), verdict("same_weights", changed)])

    assert (alone.confidence, confirmed.confidence) == (Confidence.LIKELY, Confidence.CERTAIN)


def test_symptom_is_likely_where_all_else_is_ruled_out_and_says_what_is_left():
    video = verdict("sound_video", finding("GM926", None, "frame 0"))

    [cause] = causes([video, COVERAGE, SOUND, weights("transformer", "vae"), CONFIG, SCHEDULE])
    [seeded] = causes([video, COVERAGE, SOUND, weights("transformer", "vae"), CONFIG, SCHEDULE, SEEDED])
    [open_] = causes([video, COVERAGE, SOUND, CONFIG, SCHEDULE])

    identical = "weights identical, configuration identical, schedule as configured, so the difference is in "
    assert (
        cause.conclusion == f"{identical}the library or the run (dtype, device, kernels, global random state)"
    )
    assert seeded.conclusion == f"{identical}the library or the run (dtype, device, kernels)"
    assert (cause.confidence, open_.confidence) == (Confidence.LIKELY, Confidence.POSSIBLE)
    assert open_.conclusion.startswith(
        "configuration identical, schedule as configured, so what is left is the weights, or the library"
    )


def test_cause_in_the_files_says_what_is_identical_and_where_the_difference_is():
    key = verdict("same_config", finding("GM401", "vae", "config.json:scaling_factor"), values_compared=94)

    [cause] = causes([key, weights("vae"), SCHEDULE])

    assert cause.conclusion == (
        "weights identical, schedule as configured, so the difference is in the configuration of the vae"
    )


def test_ruled_out_is_what_verdicts_prove_with_their_figures():
    [cause] = causes(
        [
            verdict("same_config", finding("GM401", "vae", "config.json:x"), values_compared=94),
            weights("transformer", "vae", changed=("unet",)),
            COVERAGE,
            verdict("denoiser_call", calls="proven equal: weights, configuration and schedule are"),
        ]
    )

    assert [(one.text, one.whole) for one in cause.ruled_out] == [
        ("names and shapes (30 tensors)", True),
        ("weights of transformer, vae (20 tensors identical)", False),
        ("configuration (94 values identical), but for vae", False),
    ]
    assert all(one.ids for one in cause.ruled_out)


@pytest.mark.parametrize("outcome", ["skipped", "inconclusive"])
def test_what_was_not_judged_rules_nothing_out(outcome):
    video = verdict("sound_video", finding("GM926", None, "frame 0"))
    unjudged = verdict("same_config", outcome=outcome, reason="no reference was given", values_compared=94)

    [cause] = causes([video, unjudged, weights("vae"), SCHEDULE, COVERAGE])

    assert "configuration" not in [one.subject for one in cause.ruled_out]
    assert ("configuration", "same_config: no reference was given") in [
        (one.subject, one.reason) for one in cause.not_looked_at
    ]
    assert ("random state", "seeded_sampling was not judged") in [
        (one.subject, one.reason) for one in cause.not_looked_at
    ]
    assert "the configuration" in cause.conclusion


def test_weights_below_an_adapter_are_not_the_whole_model():
    video = verdict("sound_video", finding("GM926", None, "frame 0"))

    [cause] = causes([video, weights("transformer", adapter="lora.safetensors"), CONFIG, SCHEDULE])

    assert cause.ruled_out[0].text == "weights of transformer (10 tensors identical) below the adapter"
    assert "what is left is the weights" in cause.conclusion


def test_order_of_the_verdicts_makes_no_difference():
    verdicts = [
        verdict("same_config", finding("GM401", "vae", "config.json:scaling_factor")),
        verdict(
            "coverage", finding("GM201", "transformer", "a.weight"), finding("GM202", "transformer", "b.c")
        ),
        verdict("same_weights", finding("GM304", "text_encoder", "b"), finding("GM301", "unet", "c")),
        verdict("sound_weights", finding("GM304", "text_encoder", "a"), finding("GM307", "controlnet", "d")),
        verdict("sound_video", finding("GM920", None, "frame 1"), finding("GM924", None, "frame 0")),
        verdict("seeded_sampling", outcome="inconclusive", reason="transformer does not load"),
    ]
    said = [cause.to_json() for cause in causes(verdicts)]
    drawn = random.Random(0)

    for _ in range(10):
        drawn.shuffle(verdicts)
        assert [cause.to_json() for cause in causes(verdicts)] == said


def test_own_code_is_told_and_explained_by_nothing():
    found = causes(
        [
            verdict("logo_survives", finding("ACME001", None, "frame 0")),
            verdict("same_config", finding("GM401", "vae", "config.json:scaling_factor")),
        ]
    )

    assert [cause.code for cause in found] == ["GM401", "ACME001"]
    assert [cause.stage for cause in found] == ["configuration", "other"]


def test_every_finding_leads_or_is_explained():
    findings = [
        finding(code, component, location)
        for code in RULES
        for component, location in (("transformer", "a.weight"), (None, "step 1"), ("vae", "decoder.b"))
    ]

    found = causes([verdict("coverage", *findings)])

    told = {(cause.code, cause.component) for cause in found}
    told |= {(one.code, one.component) for cause in found for one in cause.explains}
    assert told == {(one["code"], one["component"]) for one in findings}
    assert found


def test_every_rule_has_a_stage_and_every_pattern_means_a_rule():
    codes = [*RULES, *(f"trained {code}" for code in RULES)]

    other = [code for code in RULES if STAGES[stage_of(code)].name == "other"]
    patterns = [pattern for one in RELATIONS for pattern in (one.cause, one.effect)]
    patterns += [block.cause for block in BLOCKS]
    patterns += [stage.codes for stage in STAGES]
    assert [code for code in other if not code.startswith("GM0")] == []
    for pattern in patterns:
        assert any(re.fullmatch(pattern, code) for code in codes), pattern
    assert any(MARKS.fullmatch(code) for code in RULES)
    assert all(one.why and not one.why.endswith(".") for one in RELATIONS)
