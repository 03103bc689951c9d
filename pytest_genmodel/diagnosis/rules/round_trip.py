"""Rules of the round trip: 6xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM601",
        "save and reload changes weights",
        "A tensor that was saved comes back with other values, or does not come back.",
        "Look at how the class saves: buffers registered with persistent=False, tied tensors, casts on save.",
    ),
    Rule(
        "GM602",
        "save and reload changes configuration",
        "A value of the effective configuration does not survive saving.",
        "Set it with register_to_config, so that save_pretrained writes it.",
    ),
    Rule(
        "GM603",
        "save and reload changes tokens",
        "The reloaded tokenizer gives other ids for the same text.",
        "Save the tokenizer with the transformers version that loads it.",
    ),
    Rule(
        "GM604",
        "save and reload changes the sample",
        "The reloaded pipeline gives another video for the same seed.",
        "Look at what lives outside weights and configuration: hooks, processors, scheduler state.",
    ),
)
