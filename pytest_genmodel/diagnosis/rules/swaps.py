"""Rules of swap bisection: 960 to 969."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM960",
        "one part carries the damage",
        "Candidate and reference differ in several parts. Exchanged one by one, this one takes most of the "
        "difference of the video with it.",
        "Put the reference's part in its place to have a sound model, and look for what changed it.",
        example="part                          share\n"
        "scheduler: prediction_type     97 %\n"
        "vae: scaling_factor             4 %",
    ),
    Rule(
        "GM961",
        "no part alone carries the damage",
        "Candidate and reference differ in several parts, and none of them, exchanged by itself, makes half of the "
        "difference of the video or takes half of it away.",
        "Look at the parts together: a weight and the configuration that belongs to it, a scale that is applied "
        "twice.",
        example="part                   share\ntransformer's weights   44 %\ntext_encoder            38 %",
    ),
)
