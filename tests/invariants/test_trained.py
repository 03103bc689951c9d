"""sound_prediction and sound_autoencoder: random weights cannot tell, trained ones pass; faults: the matrix."""

from __future__ import annotations

import pytest

from pytest_genmodel.invariants.trained import CLEAR
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import VAE, edit_tensors

TRAINED = "tiny:cogvideox-i2v-trained"


@pytest.mark.parametrize("name", ["cogvideox-i2v", "wan2.2-a14b-i2v", "i2vgen-xl"])
@pytest.mark.parametrize("claim", ["sound_prediction", "sound_autoencoder"])
def test_random_weights_cannot_tell(judged, claim, name):
    verdict = judged(claim, f"tiny:{name}")

    assert (verdict.outcome, verdict.findings) == (Outcome.SKIPPED, ())
    assert "random" in verdict.reason


def test_each_expert_is_asked(judged):
    measured = judged("sound_prediction", "tiny:wan2.2-a14b-i2v").measurements

    assert {"transformer_from", "transformer_2_from"} <= measured.keys()


def test_trained_model_predicts_what_its_scheduler_takes_it_to(judged):
    verdict = judged("sound_prediction", TRAINED)

    distances = verdict.measurements["transformer_from"]
    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert min(distances, key=distances.get) == "v_prediction"
    assert distances["v_prediction"] < CLEAR < distances["epsilon"]


def test_trained_autoencoder_gives_the_clip_back(judged):
    verdict = judged("sound_autoencoder", TRAINED)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert verdict.measurements["back"]["as it is"] > 0.9
    assert 0.5 < verdict.measurements["latent_spread"] < 2


def test_model_without_an_objective_that_says_its_noise_is_left_out(judged):
    verdict = judged("sound_prediction", "tiny:svd")

    assert verdict.outcome is Outcome.SKIPPED
    assert "does not say which noise it adds" in verdict.reason


def test_damaged_autoencoder_cannot_be_told_from_a_random_one(judged, copy):
    edit_tensors(copy / VAE, lambda tensors: {name: tensor * 0 for name, tensor in tensors.items()})

    verdict = judged("sound_autoencoder", copy)

    assert verdict.outcome is Outcome.SKIPPED
    assert "cannot be told apart" in verdict.reason
