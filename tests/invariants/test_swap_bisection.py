"""swap_bisection: which of several differences carries the damage, and what is shared on the way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.diagnosis.swaps import swap_finding
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.transformations import bisection
from pytest_genmodel.transformations.bisection import Bisection, Damage, Swap
from pytest_genmodel.transformations.swaps import Part, differing_parts, exchanged
from tests.editing import TO_Q, TRANSFORMER, VAE, edit_json, edit_tensors


@pytest.fixture
def pair(healthy):
    sessions = []

    def pair(folder):
        sessions.append(GenmodelSession(Settings(candidates=(str(folder),), reference=str(healthy))))
        return sessions[-1].context(0)

    yield pair
    for session in sessions:
        session.close()


def scheduler(folder, **values):
    edit_json(folder / "scheduler" / "scheduler_config.json", **values)


def weights(folder, file, name, factor):
    edit_tensors(folder / file, lambda tensors: tensors | {name: tensors[name] * factor})


def parts_of(context):
    return differing_parts(context.candidate.checkpoint, context.reference.checkpoint)


def test_parts_are_as_small_as_the_files_let_them_be(pair, copy):
    scheduler(copy, prediction_type="epsilon", snr_shift_scale=3.0)
    edit_json(copy / "vae" / "config.json", scaling_factor=0.5)
    weights(copy, VAE, "decoder.conv_out.conv.weight", 2)
    edit_json(copy / "tokenizer" / "tokenizer_config.json", model_max_length=3)
    weights(copy, TRANSFORMER, TO_Q, 2)

    names = [part.name for part in parts_of(pair(copy))]

    assert names == [
        *["tokenizer", "scheduler: prediction_type", "scheduler: snr_shift_scale", "transformer's weights"],
        *["vae's weights", "vae: scaling_factor"],
    ]


def test_checkpoint_put_together_has_the_parts_and_nothing_else(pair, copy, tmp_path):
    edit_json(copy / "vae" / "config.json", scaling_factor=0.5)
    weights(copy, VAE, "decoder.conv_out.conv.weight", 2)
    context = pair(copy)
    ours, theirs = context.candidate.checkpoint, context.reference.checkpoint
    [of_weights, of_key] = parts_of(context)

    mixed = exchanged(theirs, ours, [of_key], tmp_path)
    other = exchanged(theirs, ours, [of_weights], tmp_path)

    assert [part.name for part in differing_parts(mixed, theirs)] == [of_key.name]
    assert [part.name for part in differing_parts(mixed, ours)] == [of_weights.name]
    assert [part.name for part in differing_parts(other, ours)] == [of_key.name]
    assert differing_parts(exchanged(theirs, ours, [of_key, of_weights], tmp_path), ours) == ()
    assert all(file.is_symlink() for file in mixed.components["vae"].folder.glob("*.safetensors"))
    assert not (copy / "swap-").exists()


def test_part_that_carries_the_damage_is_named(judged, healthy, copy):
    scheduler(copy, prediction_type="epsilon")
    edit_json(copy / "vae" / "config.json", scaling_factor=0.69)

    verdict = judged("swap_bisection", copy, healthy)

    [finding] = verdict.findings
    assert verdict.outcome is Outcome.FAILED
    assert (finding.code, finding.component) == ("GM960", "scheduler")
    assert finding.location == "scheduler_config.json:prediction_type"
    first, second = finding.evidence["parts"]
    assert first["share"] > 0.9 > 0.1 > second["share"]
    assert finding.evidence["samples"] == 4  # two parts: what is alone here is the rest there
    assert "is left" in finding.cause


def test_decoder_is_told_from_the_weights_that_matter_less(judged, healthy, copy):
    weights(copy, VAE, "decoder.conv_out.conv.weight", 3)
    weights(copy, TRANSFORMER, TO_Q, 1.01)
    edit_tensors(copy / "text_encoder" / "model.safetensors", _nudged)

    verdict = judged("swap_bisection", copy, healthy)

    [finding] = verdict.findings
    assert (finding.code, finding.component, finding.location) == ("GM960", "vae", "vae/")
    assert finding.evidence["parts"][0]["part"] == "vae's weights"
    assert len(finding.evidence["parts"]) == 3


def _nudged(tensors):
    return {name: tensor * 1.0001 for name, tensor in tensors.items()}


def test_equal_calls_are_made_once(judged, healthy, copy):
    """What differs in the decoder alone shares every step of the denoiser."""
    weights(copy, VAE, "decoder.conv_out.conv.weight", 3)
    edit_json(copy / "vae" / "config.json", scaling_factor=0.5)

    verdict = judged("swap_bisection", copy, healthy, parameters={"steps": 4})

    [finding] = verdict.findings
    # Four samples of 2 texts, an image, 4 steps and a video each. The texts are shared by all; the steps of the
    # reference by that with the decoder alone exchanged, those of the candidate by that with the scale alone.
    assert finding.evidence["calls"] + finding.evidence["calls_shared"] == 4 * 8
    assert finding.evidence["calls_shared"] == 3 * 2 + 2 * 4


def test_one_part_or_none_is_nothing_to_tell_apart(judged, healthy, copy):
    same = judged("swap_bisection", copy, healthy)
    scheduler(copy, prediction_type="epsilon")
    one = judged("swap_bisection", copy, healthy)

    assert (same.outcome, one.outcome) == (Outcome.SKIPPED, Outcome.SKIPPED)
    assert "no part" in same.reason
    assert "scheduler: prediction_type" in one.reason


@pytest.mark.parametrize(("expect", "severity"), [("finetuned", "note"), ("identical", "error")])
def test_damage_that_the_contract_allows_is_a_note(judged, healthy, copy, expect, severity):
    weights(copy, TRANSFORMER, TO_Q, 3)
    edit_json(copy / "vae" / "config.json", scaling_factor=0.6999)

    [finding] = judged("swap_bisection", copy, healthy, expect=expect).findings

    assert (finding.component, finding.severity.value) == ("transformer", severity)


def test_failed_comparison_is_followed_up_at_the_full_level(judged, healthy, copy):
    scheduler(copy, prediction_type="sample")
    edit_json(copy / "vae" / "config.json", scaling_factor=0.6)
    asked = {"parameters": {"seeds": 2, "frames": 9, "steps": 2}}

    quick = judged("sound_video", copy, healthy, **asked, level="quick")
    full = judged("sound_video", copy, healthy, **asked, level="full")

    assert "GM960" not in [finding.code for finding in quick.findings]
    assert [finding.code for finding in full.findings][-2:] == ["GM952", "GM960"]


def test_parts_that_do_not_fit_are_told(judged, healthy, copy):
    def wider(tensors):
        return {
            name: torch.cat([tensor, tensor], dim=-1) if name.endswith("wo.weight") else tensor
            for name, tensor in tensors.items()
        }

    edit_tensors(copy / "text_encoder" / "model.safetensors", wider)
    scheduler(copy, prediction_type="epsilon")

    verdict = judged("swap_bisection", copy, healthy)

    assert verdict.outcome is Outcome.INCONCLUSIVE


def part(name):
    return Part("whole", name)


def test_damage_of_parts_that_act_together_is_no_single_parts():
    none, all_ = Damage(0.0, 0.0), Damage(1.0, 0.5)
    together = (Swap(part("vae"), none, none), Swap(part("unet"), none, all_), Swap(part("x"), none, all_))
    half = Bisection(all_, tuple(Swap(part(n), Damage(0.3, 0.2), Damage(0.8, 0.4)) for n in "abc"), 8, 9, 0)

    assert Bisection(all_, together, 8, 9, 0).ranked[0][1] == pytest.approx(0.5)
    finding = swap_finding(half, lambda _: False)
    assert (finding.code, finding.severity) == ("GM961", Severity.ERROR)
    assert "act together" in finding.cause
    assert finding.message == "no part alone carries the difference in the frames: a 30 %, b 30 %, c 30 %"


def test_combination_that_does_not_run_does_not_hide_the_others():
    whole = Damage(1.0, 0.4)
    swaps = (Swap(part("a"), None, None, "it does not load"), Swap(part("b"), whole, Damage(0.0, 0.0)))

    finding = swap_finding(Bisection(whole, swaps, 3, 9, 0), lambda _: False)

    assert (finding.code, finding.component) == ("GM960", "b")
    assert finding.message == (
        "b carries 100 % of the difference in the frames; 1 more do not run exchanged (a: it does not load)"
    )
    assert swap_finding(Bisection(whole, swaps[:1], 3, 9, 0), lambda _: False) is None


def test_video_of_another_shape_over_equal_latents_is_damage(monkeypatch, tmp_path):
    latents = torch.ones(2, 3)
    samples = [SimpleNamespace(latents=latents, frames=torch.zeros(2, 3, size, size)) for size in (4, 8)]
    monkeypatch.setattr(bisection, "_sampled", lambda *_: samples.pop(0))
    pipeline = SimpleNamespace(samples=SimpleNamespace(computed=0))

    found = bisection.bisect(pipeline, pipeline, None, (), tmp_path)

    assert (found.whole, found.by_frames) == (Damage(0.0, None), True)
    assert found.share(Swap(part("vae"), found.whole, Damage(0.0, 0.0))) == 1.0
