"""The rules: a stable code for each fault, what it means and what to do.

Bands: 0xx general, 1xx files and safety, 2xx names, shapes, dtypes, 3xx values, 4xx configuration and
schedule, 5xx determinism, 6xx round trip, 7xx training, 8xx adapters. A code is never given to another fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pytest_genmodel.errors import BadInputError


class Severity(str, Enum):
    """How much a finding weighs: an error fails its verdict, a warning only under `--genmodel-strict`."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Rule:
    """One kind of fault: `summary` names it, `meaning` says why it matters, `action` what to do first."""

    code: str
    summary: str
    meaning: str
    action: str
    severity: Severity = Severity.ERROR


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

_RULES = (
    Rule(
        "GM010",
        "assertion of an invariant failed",
        "An invariant of the project's own was written with an assert, and the assert failed.",
        "Read what the assertion says; give the invariant a rule code of its own to explain it.",
    ),
    Rule(
        "GM101",
        "damaged file",
        "A file of the checkpoint is empty, cut short, or breaks its format. Whatever a loader makes of it is "
        "not what was saved.",
        "Copy or download the file again, and compare its size and checksum with the source.",
    ),
    Rule(
        "GM102",
        "not weights",
        "A file has the name of a weights file and is something else: a git-LFS pointer, a web page, a pickle.",
        "Fetch the real file: `git lfs pull`, or download it again.",
    ),
    Rule(
        "GM103",
        "missing file",
        "A file or component that the pipeline's class, the model index or the shard index needs is not there.",
        "Copy the missing file, or save the checkpoint again into an empty folder.",
    ),
    Rule(
        "GM104",
        "unsafe file",
        "Reading the file would need an unrestricted unpickler, or code that comes with the checkpoint.",
        "Convert the weights to safetensors where they were trained.",
    ),
    Rule(
        "GM105",
        "second weight set in one folder",
        "Two complete weight sets lie in one component's folder. The library reads one and passes over the "
        "other, whichever is newer (diffusers issue 14769).",
        "Delete the stale set, or save into an empty folder.",
    ),
    Rule(
        "GM106",
        "file that nobody reads",
        "A weights file or a model's folder lies in the checkpoint and no loader reads it. If it holds the training "
        "result, the result is not loaded.",
        "Move it away, or give it the name that the library looks for.",
        _W,
    ),
    Rule(
        "GM107",
        "tokenizer without vocabulary",
        "The tokenizer's files are gone or are not those of the text encoder. transformers builds a stub without "
        "a message, every word becomes <unk>, and any two prompts of equal length mean the same.",
        "Copy the tokenizer's folder from the model the training started from.",
    ),
    Rule(
        "GM108",
        "component does not load",
        "The library refuses the component.",
        "Read what the library said; the other findings of this component usually name the cause.",
    ),
    Rule(
        "GM201",
        "tensor that no file backs",
        "A tensor lives in the loaded model and no file holds it: it is freshly initialised, or has no memory at "
        "all (on torch's CPU build a matrix product with such a tensor gives whatever lay in memory).",
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
        "The weights were saved through a wrapper (DistributedDataParallel, torch.compile, FSDP, PEFT) that put "
        "a prefix into every name, so that no name matches.",
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
        "GM301",
        "weights changed where no change is allowed",
        "The contract forbids a change of this component, and its weights differ from the reference's.",
        "Copy the component from the reference. If it was trained on purpose: --genmodel-expect=finetuned lets the "
        "denoiser change, and so does giving no expectation; no option lets another component change, so give "
        "a checkpoint that holds its new weights as --genmodel-ref.",
    ),
    Rule(
        "GM302",
        "weights did not change",
        "The contract requires this component to change, and every tensor equals the reference's: the training "
        "result was not saved, or nothing was trained.",
        "Check which model object was saved, and that its parameters were given to the optimizer.",
    ),
    Rule(
        "GM303",
        "model differs from its file",
        "A tensor of the loaded model is not what its file holds: something changed it while loading.",
        "Look for code that runs at load time: initialisation after loading, a second load, a lossy cast.",
    ),
    Rule(
        "GM304",
        "values that are no numbers",
        "A tensor holds NaN or Inf.",
        "Go back to the last checkpoint without them; in training, check the gradient scale and fp16 overflow.",
    ),
    Rule(
        "GM305",
        "precision lost",
        "The values went through a narrower dtype: each is the reference's, rounded.",
        "Save in the dtype of the reference. If the narrower dtype is meant, save the reference in it too and give "
        "that as --genmodel-ref.",
    ),
    Rule(
        "GM306",
        "weights changed",
        "The weights of a component that may change differ from the reference's.",
        "Nothing to do if the component was trained.",
        _N,
    ),
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
        _W,
    ),
    Rule(
        "GM501",
        "same seed, other sample",
        "Two runs with one seed and one generator differ: something draws random numbers past the generator.",
        "Look for randomness without a generator: dropout (is every module in eval mode?), torch.randn without "
        "generator=, a VAE posterior that is sampled.",
    ),
    Rule(
        "GM502",
        "global random state matters",
        "The sample changes with torch's, numpy's or Python's global random state although a generator was given.",
        "Pass the pipeline's generator to every call that draws random numbers.",
    ),
    Rule(
        "GM503",
        "seed does not matter",
        "Two different seeds give the same sample: the generator is ignored.",
        "Pass `generator` through to the call that draws the initial latents.",
    ),
    Rule(
        "GM504",
        "sample is not finite",
        "The sampled latents or frames hold NaN or Inf.",
        "Look at the coverage and weights verdicts first; then at fp16 overflow in the VAE or the text encoder.",
    ),
    Rule(
        "GM505",
        "sample without content",
        "Every pixel of the sampled video has one value: black, white or grey frames.",
        "Look at NaN hidden by a cast to integers, and at the VAE's scaling factor.",
    ),
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
    Rule(
        "GM701",
        "learning rate was not zero",
        "The run was asked for the rate 0 and the optimizer used another: a default filled in for a value that "
        "counts as false, or a rate from another configuration.",
        "Look for `lr or default` and for a second place that sets the rate.",
    ),
    Rule(
        "GM702",
        "optimizer moved weights at rate zero",
        "The rate was 0 and parameters changed during training.",
        "Look for NaN or Inf gradients (0 x Inf is NaN), an optimizer with a minimum step, an EMA copied back.",
    ),
    Rule(
        "GM703",
        "saving altered the weights",
        "The trained model in memory equalled what went in; what was written does not.",
        "Look at what is given to the save call: a wrapped model, a cast, an EMA copy, a part of the state dict.",
    ),
    Rule(
        "GM704",
        "loading lost the weights",
        "The file holds the right values and the loaded model does not.",
        "Load with strict=True and read the missing keys.",
    ),
    Rule(
        "GM705",
        "zero learning rate changes the sample",
        "Weights, configuration and schedule are right and the sample after training is another.",
        "Look at what the trainer leaves behind in the pipeline: hooks, processors, train mode, scheduler state.",
    ),
    Rule(
        "GM706",
        "claimed parameters did not move",
        "At a positive rate parameters that are said to be trained kept every bit.",
        "Check requires_grad, the optimizer's parameter groups, and a schedule whose first rate is 0.",
    ),
    Rule(
        "GM707",
        "unclaimed parameters moved",
        "At a positive rate something changed that is not said to be trained.",
        "Freeze it with requires_grad_(False), and give the optimizer only what is trained.",
    ),
    Rule(
        "GM708",
        "training gives values that are no numbers",
        "After a step parameters hold NaN or Inf.",
        "Lower the rate, clip gradients, and keep fp16 parameters out of AdamW (its eps underflows there).",
    ),
    Rule(
        "GM709",
        "nothing was trained",
        "The trainer came back and no optimizer took a step with gradients.",
        "Read the trainer's output; a trainer that exits with status 0 may still have failed.",
    ),
    Rule(
        "GM710",
        "nothing was written",
        "The trainer came back without a checkpoint, or with the one it was given.",
        "Read the trainer's output, and check its output folder and save interval.",
    ),
    Rule(
        "GM801",
        "adapter is not attached",
        "LoRA factors of the file are not in the loaded model (their names match nothing), or factors of the model "
        "are in no file and hold whatever they were made with.",
        "Save the whole adapter, named as diffusers does: `<denoiser>.<module>.lora_A.weight` and `.lora_B.weight`.",
    ),
    Rule(
        "GM802",
        "adapter is all zero",
        "Every lora_B is zero: the adapter does nothing. Fresh adapters look like this.",
        "Check that the trained adapter was saved, and not a new one.",
        _W,
    ),
    Rule(
        "GM803",
        "adapter without alpha",
        "The file does not say with which alpha it was trained; diffusers takes alpha = rank, which can be many "
        "times too strong or too weak.",
        "Save with transformer_lora_adapter_metadata, or state the scale where the adapter is loaded.",
        _W,
    ),
)

RULES = {rule.code: rule for rule in _RULES}


def register(rule: Rule) -> None:
    """Add a rule of a user's own.

    Raises:
        BadInputError: the code is taken by another rule.
    """
    if RULES.get(rule.code, rule) != rule:
        raise BadInputError(f"the rule code {rule.code} is taken: {RULES[rule.code].summary}")
    RULES[rule.code] = rule


def rule_for(code: str) -> Rule:
    """Give the rule of `code`.

    Raises:
        BadInputError: no rule has this code.
    """
    if code not in RULES:
        raise BadInputError(f"no rule has the code {code!r}; known: {', '.join(sorted(RULES))}")
    return RULES[code]
