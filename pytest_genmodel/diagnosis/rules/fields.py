"""Rules of fields that the installed classes do not know: GM432 to GM434."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM432",
        "field is passed over",
        "The configuration has a field that the installed class does not take. diffusers logs a line and drops "
        "it; what it was meant to change stays as the class has it by default.",
        "Correct the name if it is misspelt; install the version that wrote it; take it out if it is a leftover.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/issues/12889",),
        example='transformer/config.json:  "use_rotary_position_embeddings": true\n'
        "the class takes use_rotary_positional_embeddings, and turns nothing",
    ),
    Rule(
        "GM433",
        "newer field that decides what is computed is passed over",
        "A later version of diffusers wrote this field, and its name says that it decides what the model "
        "computes. The installed version drops it and computes something else, without an error.",
        "Install at least the version of diffusers that wrote the checkpoint.",
        seen_in=("https://github.com/huggingface/diffusers/issues/12889",),
        example='transformer/config.json:  "_diffusers_version": "0.99.0",\n'
        '                          "rope_axes_dim": [16, 56, 56]',
    ),
    Rule(
        "GM434",
        "written by a newer diffusers",
        "A later version of diffusers than the installed one wrote the configuration. Defaults and behaviour "
        "may have changed in between, even where every field is known.",
        "Nothing to do if the other claims hold; else install the version that wrote it.",
        Severity.NOTE,
        example='vae/config.json:  "_diffusers_version": "0.99.0"\n$ pip show diffusers\nVersion: 0.42.1',
    ),
)
