"""zero_lr_identity with optimizers that have habits: named where they move weights; still at 1e-46."""

from __future__ import annotations

import pytest
import torch
from lion_pytorch import Lion
from prodigyopt import Prodigy

from pytest_genmodel.invariants.verdict import Outcome

ADAMW = torch.optim.AdamW


@pytest.fixture
def judged_with(judged, healthy, monkeypatch):
    """Judge zero_lr_identity with the built-in trainer, another optimizer in it."""

    def judge(make, **settings):
        monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, *, lr, **_: make(parameters, lr))
        return judged("zero_lr_identity", healthy, parameters={"trainer": "full"}, **settings)

    return judge


def relative_steps(parameters, lr):
    from transformers.optimization import Adafactor

    return Adafactor(parameters)


@pytest.mark.parametrize(
    ("make", "words", "settings"),
    [
        (relative_steps, "relative_step=True", {}),
        (lambda ps, lr: ADAMW(ps, lr=lr, eps=0.0), "eps=0", {}),
        (
            lambda ps, lr: Lion(ps, lr=lr, weight_decay=0.01, decoupled_weight_decay=True),
            "divides the decay by the rate",
            {"zero_rate": 1e-46},
        ),
    ],
    ids=["Adafactor", "AdamW-without-eps", "Lion"],
)
def test_habit_that_moves_weights_is_named(judged_with, make, words, settings):
    verdict = judged_with(make, **settings)

    [finding] = [finding for finding in verdict.findings if finding.code == "GM702"]
    assert words in finding.cause


@pytest.mark.parametrize("make", [lambda ps, lr: Lion(ps, lr=lr), lambda ps, lr: Prodigy(ps, lr=lr)])
def test_optimizer_that_refuses_zero_is_an_identity_at_the_smallest_rate(judged_with, make):
    verdict = judged_with(make, zero_rate=1e-46)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
