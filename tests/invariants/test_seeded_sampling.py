"""seeded_sampling: the seed decides the sample, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXImageToVideoPipeline, CogVideoXTransformer3DModel

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from tests.editing import TO_Q, TRANSFORMER, drop_tensors


def test_holds_with_three_runs(healthy):
    session = GenmodelSession(Settings(candidates=(str(healthy),)))

    verdict = session.judge(0, "seeded_sampling", {})

    assert verdict.outcome is Outcome.PASSED
    assert session.samples.computed == 3
    assert verdict.measurements == {"steps": 4, "frames": 9, "seed": 0}
    session.judge(0, "seeded_sampling", {})
    assert session.samples.computed == 3, "judging it again computes nothing"


def test_parameters_change_the_probe(judged, healthy):
    verdict = judged("seeded_sampling", healthy, parameters={"seed": 7, "steps": 1, "frames": 9})

    assert verdict.measurements == {"steps": 1, "frames": 9, "seed": 7}


def test_noise_from_the_global_generator_is_told_from_plain_randomness(judged, healthy, monkeypatch):
    prepare = CogVideoXImageToVideoPipeline.prepare_latents

    def prepare_from_global_noise(self, *args, **kwargs):
        latents, image = prepare(self, *args, **kwargs)
        return torch.randn_like(latents), image

    monkeypatch.setattr(CogVideoXImageToVideoPipeline, "prepare_latents", prepare_from_global_noise)

    codes = {finding.code: finding for finding in judged("seeded_sampling", healthy).findings}

    assert codes["GM502"].location == "step 1"


def test_randomness_past_every_seed_is_found(judged, healthy, monkeypatch):
    import secrets

    prepare = CogVideoXImageToVideoPipeline.prepare_latents

    def prepare_from_entropy(self, *args, **kwargs):
        latents, image = prepare(self, *args, **kwargs)
        generator = torch.Generator().manual_seed(secrets.randbits(60))
        return latents + torch.randn(latents.shape, generator=generator), image

    monkeypatch.setattr(CogVideoXImageToVideoPipeline, "prepare_latents", prepare_from_entropy)

    assert judged("seeded_sampling", healthy).findings[0].code == "GM501"


def test_dropout_in_train_mode_is_found(judged, healthy, monkeypatch):
    from transformers import T5EncoderModel

    forward = T5EncoderModel.forward

    def forward_in_train_mode(self, *args, **kwargs):
        self.train()
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(T5EncoderModel, "forward", forward_in_train_mode)

    finding, place = judged("seeded_sampling", healthy).findings

    assert finding.code == "GM502"
    assert "global generator" in finding.cause
    assert (place.code, place.component, place.location) == ("GM954", "text_encoder", "encoder.dropout")
    assert "training mode" in place.cause


def test_ignored_seed_is_found(judged, healthy, monkeypatch):
    prepare = CogVideoXImageToVideoPipeline.prepare_latents

    def prepare_from_one_seed(self, *args, **kwargs):
        arguments = list(args)
        place = next(i for i, value in enumerate(arguments) if isinstance(value, torch.Generator))
        arguments[place] = torch.Generator().manual_seed(0)
        return prepare(self, *arguments, **kwargs)

    monkeypatch.setattr(CogVideoXImageToVideoPipeline, "prepare_latents", prepare_from_one_seed)

    [finding] = judged("seeded_sampling", healthy).findings

    assert (finding.code, finding.location) == ("GM503", "step 1")


def test_difference_in_the_decoder_alone_is_told_apart(judged, healthy, monkeypatch):
    decode = AutoencoderKLCogVideoX.decode

    def noisy_decode(self, latents, *args, **kwargs):
        output = decode(self, latents, *args, **kwargs)
        output.sample.add_(torch.randn_like(output.sample), alpha=0.1)
        return output

    monkeypatch.setattr(AutoencoderKLCogVideoX, "decode", noisy_decode)

    finding, place = judged("seeded_sampling", healthy).findings

    assert (finding.code, finding.location) == ("GM502", "frame 0")
    assert "all latents agree" in finding.message
    assert (place.code, place.component, place.location) == ("GM954", "vae", "vae.decode")


@pytest.mark.parametrize(
    ("fill", "code"), [(float("nan"), "GM504"), (0.0, "GM505")], ids=["not a number", "one value everywhere"]
)
def test_sample_that_is_no_video_is_found(judged, healthy, monkeypatch, fill, code):
    decode = AutoencoderKLCogVideoX.decode

    def decode_to_nothing(self, latents, *args, **kwargs):
        output = decode(self, latents, *args, **kwargs)
        output.sample.fill_(fill)
        return output

    monkeypatch.setattr(AutoencoderKLCogVideoX, "decode", decode_to_nothing)

    assert code in [finding.code for finding in judged("seeded_sampling", healthy).findings]


def test_not_a_number_in_the_latents_is_found_at_its_step(judged, healthy, monkeypatch):
    forward = CogVideoXTransformer3DModel.forward
    calls = []

    def forward_that_overflows(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        calls.append(1)
        if len(calls) % 4 == 3:
            output[0].fill_(float("inf"))
        return output

    monkeypatch.setattr(CogVideoXTransformer3DModel, "forward", forward_that_overflows)

    finding = judged("seeded_sampling", healthy).findings[0]

    assert (finding.code, finding.location) == ("GM504", "step 3")


def test_uninitialised_memory_is_never_sampled(judged, copy):
    drop_tensors(copy / TRANSFORMER, TO_Q)

    verdict = judged("seeded_sampling", copy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "uninitialised memory" in verdict.reason


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"frames": 10}, "10 frames cannot be made: CogVideoX makes 8k + 1 (the nearest is 9)"),
        ({"frames": 0}, "0 frames cannot be made"),
        ({"steps": 0}, "steps=0: a sample takes at least one step"),
    ],
)
def test_parameters_are_checked_as_the_options_are(judged, healthy, parameters, words):
    verdict = judged("seeded_sampling", healthy, parameters=parameters)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert words in verdict.reason
    assert "crashed" not in verdict.reason
