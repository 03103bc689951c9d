"""Rules of configuration and schedule: 4xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM401",
        "configuration differs",
        "A value that the class really uses differs from the reference's: geometry, scaling, prediction type or "
        "schedule. Weights and shapes can be right and the video wrong.",
        "Copy the configuration file from the reference.",
    ),
    Rule(
        "GM402",
        "schedule differs",
        "The scheduler takes other timesteps or noise levels than the reference's.",
        "Copy scheduler_config.json from the reference.",
    ),
    Rule(
        "GM403",
        "tokenizer differs",
        "The same prompt becomes other token ids.",
        "Copy the tokenizer's folder from the reference.",
    ),
    Rule(
        "GM404",
        "size of training differs",
        "A value that only says for which size the model was made differs from the reference's.",
        "Nothing to do if the model was trained for another size.",
        Severity.WARNING,
    ),
)
