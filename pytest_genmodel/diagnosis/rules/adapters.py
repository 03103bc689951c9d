"""Rules of adapters: 8xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM801",
        "adapter is not attached",
        "LoRA factors of the file are not in the loaded model (their names match nothing), or factors of "
        "the model are in no file and hold whatever they were made with.",
        "Save the whole adapter, named as diffusers does: `<denoiser>.<module>.lora_A.weight` and "
        "`.lora_B.weight`.",
    ),
    Rule(
        "GM802",
        "adapter is all zero",
        "Every lora_B is zero: the adapter does nothing. Fresh adapters look like this.",
        "Check that the trained adapter was saved, and not a new one.",
        Severity.WARNING,
    ),
    Rule(
        "GM803",
        "adapter without alpha",
        "The file does not say with which alpha it was trained; diffusers takes alpha = rank, which can be "
        "many times too strong or too weak.",
        "Save with transformer_lora_adapter_metadata, or state the scale where the adapter is loaded.",
        Severity.WARNING,
    ),
    Rule(
        "GM804",
        "adapter of mixed ranks without alpha",
        "The layers of the adapter have different ranks and the file says no alpha. Each program guesses another "
        "strength: older versions of diffusers took the rank of whichever layer came first for the alpha of all.",
        "Save the adapter with its configuration (`*_lora_adapter_metadata`, or PEFT's adapter_config.json).",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/pull/14409",),
    ),
    Rule(
        "GM805",
        "part of the adapter never learned",
        "lora_B starts at zero, and in some layers it still is: these layers got no gradient.",
        "Check that these layers were given to the optimizer before it was made, and that they are run in "
        "training.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/issues/5016",),
    ),
    Rule(
        "GM806",
        "adapter with two alphas",
        "The places that say the adapter's alpha (tensors, header, adapter_config.json) contradict each "
        "other. Each program believes another one, and the adapter acts at another strength.",
        "Keep the alpha that was trained with, and save the adapter again.",
    ),
    Rule(
        "GM807",
        "adapter covers part of its layers",
        "Some layers of a kind have factors and others of the same kind have none: a save that was broken "
        "off, or one process's share of the whole.",
        "Save the adapter again, whole, from the main process. If only some blocks were meant to be "
        "trained, nothing.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/accelerate/pull/4206",),
    ),
)
