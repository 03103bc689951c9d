"""sound_video on the trained tiny model: real damage is seen, a fine-tune and rounding are not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants import cost
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.observables import observe, psnr, ssim
from pytest_genmodel.pipelines.pipeline import Pipeline
from tests.editing import edit_json

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return tiny.materialise("cogvideox-i2v-trained", tmp_path_factory.mktemp("trained"))


@pytest.fixture
def damaged(trained, tmp_path) -> Callable[..., Path]:
    """A copy whose tensors an edit has gone through."""

    def damage(edit: Callable[[Tensors], None], component: str = "transformer") -> Path:
        folder = Path(shutil.copytree(trained, tmp_path / "damaged"))
        [file] = (folder / component).glob("*.safetensors")
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        edit(tensors)
        save_file(tensors, file)
        return folder

    return damage


def random_like(tensor: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return (noise * tensor.float().std() * scale).to(tensor.dtype)


def table_is_noise(tensors: Tensors) -> None:
    table = tensors["patch_embed.pos_embedding"]
    table.copy_(random_like(table, 1 / float(table.float().std())))


def image_channels_are_dead(tensors: Tensors) -> None:
    weight = tensors["patch_embed.proj.weight"]
    weight[:, weight.shape[1] // 2 :] = 0


def a_little_further(tensors: Tensors) -> None:
    for tensor in tensors.values():
        if tensor.numel() > 1:
            tensor.add_(random_like(tensor, 0.01))


def rounded(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        tensors[name] = tensor.bfloat16().to(tensor.dtype)


def test_equal_content_is_proven_and_not_sampled(judged, trained):
    verdict = judged("sound_video", trained, trained)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert "equal content" in verdict.measurements["proven"]


@pytest.mark.parametrize(("edit", "expect"), [(a_little_further, "finetuned"), (rounded, "identical")])
def test_honest_change_is_no_finding(judged, trained, damaged, edit, expect):
    verdict = judged("sound_video", damaged(edit), trained, expect=expect)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert verdict.measurements["least_psnr"] > 45
    assert verdict.measurements["seeds"] == 3


@pytest.mark.parametrize(
    ("edit", "code", "observable"),
    [(table_is_noise, "GM920", "smoothness"), (image_channels_are_dead, "GM924", "fidelity")],
)
def test_damaged_denoiser_is_seen(judged, trained, damaged, edit, code, observable):
    verdict = judged("sound_video", damaged(edit), trained, expect="finetuned")

    assert verdict.outcome is Outcome.FAILED
    assert (verdict.findings[0].code, verdict.findings[0].evidence["observable"]) == (code, observable)


def test_other_prediction_type_blows_the_latents_up(judged, trained, damaged):
    folder = damaged(lambda tensors: None)
    edit_json(folder / "scheduler" / "scheduler_config.json", prediction_type="sample")

    first = judged("sound_video", folder, trained).findings[0]

    assert (first.code, first.location) == ("GM925", "step 8")


def test_latents_that_are_no_numbers_are_told_without_a_number(judged, trained, damaged):
    folder = damaged(lambda tensors: None)
    edit_json(folder / "scheduler" / "scheduler_config.json", prediction_type="epsilon")

    first = judged("sound_video", folder, trained).findings[0]

    assert (first.code, first.location) == ("GM925", "step 1")
    assert (
        first.message == "after step 1 the latents hold values that are no numbers; the reference's hold none"
    )
    assert not first.evidence


def test_scale_of_another_models_latents_flickers(judged, trained, damaged):
    folder = damaged(lambda tensors: None)
    edit_json(folder / "vae" / "config.json", scaling_factor=0.18215)

    codes = [finding.code for finding in judged("sound_video", folder, trained).findings]

    assert codes[:2] == ["GM922", "GM924"]


def test_decoder_that_is_too_strong_shifts_the_contrast(judged, trained, damaged):
    def stronger(tensors: Tensors) -> None:
        for name in tensors:
            if name.startswith("decoder.conv_out"):
                tensors[name].mul_(1.3)

    verdict = judged("sound_video", damaged(stronger, "vae"), trained)

    assert ("GM923", "contrast") in [(f.code, f.evidence.get("observable")) for f in verdict.findings]


def test_frozen_video_is_seen(judged, trained, damaged, monkeypatch):
    folder, run = damaged(a_little_further), Pipeline._run

    def frozen(self, probe, pinned):
        sample = run(self, probe, pinned)
        still = sample.frames[:1].expand_as(sample.frames)
        return replace(sample, frames=still) if "damaged" in self.spec else sample

    monkeypatch.setattr(Pipeline, "_run", frozen)

    first = judged("sound_video", folder, trained).findings[0]

    assert (first.code, first.evidence["observable"]) == ("GM921", "motion")


def test_models_said_to_be_identical_make_one_video(judged, trained, damaged):
    folder = damaged(lambda tensors: tensors["patch_embed.pos_embedding"].zero_())

    finding, place = judged("sound_video", folder, trained, expect="identical").findings

    assert finding.code == "GM926"
    assert (place.code, place.location) == ("GM950", "patch_embed")
    assert judged("sound_video", folder, trained).outcome is Outcome.PASSED


def test_large_model_needs_the_full_level(judged, trained, damaged, monkeypatch):
    monkeypatch.setattr(cost, "LARGEST_QUICK", 1000)

    verdict = judged("sound_video", damaged(a_little_further), trained)

    assert verdict.outcome is Outcome.SKIPPED
    assert "--genmodel-level=full" in verdict.reason


def test_one_seed_has_no_range(judged, trained):
    verdict = judged("sound_video", trained, trained, parameters={"seeds": 1})

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "two seeds or more" in verdict.reason


def test_observables_are_what_they_say():
    ramp = torch.linspace(0, 1, 16).expand(3, 16, 16)
    still = torch.stack([ramp, ramp])
    noise = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    assert observe(still, ramp).motion == observe(still, ramp).flicker == 0.0
    assert observe(still, ramp).fidelity == float("inf")
    assert observe(still, ramp).smoothness > 0.8 > 0.2 > abs(observe(noise, ramp).smoothness)
    assert observe(torch.stack([ramp, ramp + 0.1]), ramp).flicker == pytest.approx(0.1, abs=1e-6)
    assert psnr(ramp, ramp + 0.1) == pytest.approx(20.0, abs=1e-4)
    assert ssim(still, still) == pytest.approx([1.0, 1.0])
    assert max(ssim(noise, 1 - noise)) < 0


def test_wrong_count_of_seeds_is_bad_input():
    from pytest_genmodel.invariants.video import sound_video

    with pytest.raises(BadInputError, match="two seeds or more"):
        list(sound_video(None, seeds=True))
