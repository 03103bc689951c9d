"""Rules of what must have an effect: 910 to 914."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM910",
        "condition is ignored",
        "Another input gives the same result, bit for bit: it is read, and never used. The video looks plausible, "
        "and does not follow its image or its prompt.",
        "Follow the input from the call to the denoiser: a branch that is off, an encoder whose output is dropped, a "
        "tokenizer that turns every word into the unknown token, weights that are zero.",
        seen_in=("https://github.com/zai-org/CogVideo/issues/323",),
    ),
    Rule(
        "GM911",
        "condition has lost its strength",
        "The input still has an effect, a small part of the reference's.",
        "Compare the scale of its embedding, its projection's weights, and what the encoder puts out.",
    ),
    Rule(
        "GM912",
        "tensors that nothing reads",
        "The file holds these tensors, the model keeps them in memory, and no output depends on them: what was "
        "trained into them is lost.",
        "Look at the component's configuration, and at zeros that stand behind them.",
    ),
)
