"""Rules of names, shapes and dtypes: 2xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM201",
        "tensor that no file backs",
        "A tensor lives in the loaded model and no file holds it: it is freshly initialised, or has no "
        "memory at all (on torch's CPU build a matrix product with such a tensor gives whatever lay in "
        "memory).",
        "Save the complete state dict of the bare model, and load it with strict=True.",
    ),
    Rule(
        "GM202",
        "stored tensor that the model does not take",
        "The file holds a tensor that the model has no place for; it is passed over in silence.",
        "Check that the file belongs to this model, and rename or drop the tensor.",
    ),
    Rule(
        "GM203",
        "adapter-wrapped checkpoint in a bare model",
        "The weights were saved while a LoRA was attached: PEFT had renamed `to_q.weight` to "
        "`to_q.base_layer.weight`. The bare model finds no `to_q.weight` and keeps its initial values there "
        "(the likeliest cause of zai-org/CogVideo issue 374).",
        "Save the bare model: `model.merge_and_unload().save_pretrained(...)` to keep the LoRA's effect, or "
        "`pipeline.save_lora_weights(...)` for the LoRA alone.",
    ),
    Rule(
        "GM204",
        "shape differs from the file",
        "The configuration makes a tensor of another shape than the file holds.",
        "Restore the configuration that the weights were trained with.",
    ),
    Rule(
        "GM205",
        "training wrapper left in the names",
        "The weights were saved through a wrapper (DistributedDataParallel, torch.compile, FSDP, PEFT) that "
        "put a prefix into every name, so that no name matches.",
        "Unwrap before saving: `accelerator.unwrap_model(model)`, `model.module` or `model._orig_mod`.",
    ),
    Rule(
        "GM206",
        "component differs in kind",
        "Candidate and reference do not have the same components, or not the same classes.",
        "Compare the two model_index.json files; judge the candidate against the model it was trained from.",
    ),
    Rule(
        "GM207",
        "tensor in one of the two only",
        "Candidate and reference do not store the same tensors.",
        "Save the complete component, with the class that the reference names.",
    ),
    Rule(
        "GM208",
        "stored name that means nothing",
        "The names in the file were translated from the trainer's to the model's, and for this one there is "
        "no translation. Whatever it holds reaches no model.",
        "Check that the file is of the model you think it is. If the trainer added a part of its own, say "
        "which class holds it.",
    ),
    Rule(
        "GM209",
        "tied weights stored twice, and different",
        "Two names belong to one tensor of the model, and the file gives them different values. Which of "
        "the two is used depends on the library's version.",
        "Save the model again with the library that trained it; a tied tensor is stored once, or twice "
        "alike.",
        seen_in=(
            "https://github.com/huggingface/transformers/pull/43880",
            "https://github.com/huggingface/transformers/issues/48154",
        ),
    ),
    Rule(
        "GM210",
        "empty placeholder instead of a tensor",
        "The tensor has shape [0]: under ZeRO stage 3 (and FSDP) each process holds a piece of every "
        "parameter, and a save that does not gather the pieces first writes empty placeholders.",
        "Gather before saving: `accelerator.get_state_dict(model)`, or "
        "`stage3_gather_16bit_weights_on_model_save` in DeepSpeed's configuration.",
        seen_in=("https://github.com/deepspeedai/DeepSpeed/issues/7900",),
    ),
    Rule(
        "GM211",
        "another component inside the file",
        "The file of one component also holds tensors of another: a trainer saved its whole engine "
        "(denoiser, text encoder and VAE together) where one of them was asked for.",
        "Save the component alone, or split the file at its prefixes.",
        seen_in=(
            "https://github.com/zai-org/CogVideo/issues/633",
            "https://github.com/zai-org/CogVideo/issues/276",
        ),
    ),
    Rule(
        "GM212",
        "8-bit values stored with scales",
        "The weights were divided by scales to fit into 8 bits, and the scales lie in tensors of their own. "
        "Names and shapes are right; a loader that does not know of the scales takes every value at a wrong "
        "size.",
        "Train and judge from the 16-bit weights; scaled 8-bit files are for programs that apply the scales.",
        seen_in=("https://github.com/tdrussell/diffusion-pipe/issues/350",),
    ),
    Rule(
        "GM213",
        "stored in another dtype",
        "The tensors are the reference's, kept in another dtype that holds every value exactly.",
        "Nothing to do; the file is larger or smaller than the reference's for it.",
        Severity.NOTE,
    ),
)
