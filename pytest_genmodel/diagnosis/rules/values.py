"""Rules of values: 3xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM301",
        "weights changed where no change is allowed",
        "The contract forbids a change of this component, and its weights differ from the reference's.",
        "Copy the component from the reference. If it was trained on purpose: --genmodel-expect=finetuned "
        "lets the denoiser change, and so does giving no expectation; no option lets another component "
        "change, so give a checkpoint that holds its new weights as --genmodel-ref.",
    ),
    Rule(
        "GM302",
        "weights did not change",
        "The contract requires this component to change, and every tensor equals the reference's: the "
        "training result was not saved, or nothing was trained.",
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
        "Go back to the last checkpoint without them; in training, check the gradient scale and fp16 "
        "overflow.",
    ),
    Rule(
        "GM305",
        "precision lost",
        "The values went through a narrower dtype: each is the reference's, rounded.",
        "Save in the dtype of the reference. If the narrower dtype is meant, save the reference in it too "
        "and give that as --genmodel-ref.",
    ),
    Rule(
        "GM306",
        "weights changed",
        "The weights of a component that may change differ from the reference's.",
        "Nothing to do if the component was trained.",
        Severity.NOTE,
    ),
    Rule(
        "GM307",
        "all values zero",
        "Every value of a matrix is zero: what goes through it is lost. A new projection may start at zero; "
        "a trained one does not stay there. An embedding of zeros makes every prompt mean the same.",
        "Compare the file's size and checksum with its source; then check that this layer was saved and "
        "trained.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/transformers/pull/43880",),
    ),
    Rule(
        "GM308",
        "all values alike",
        "Every value of a matrix is the same number: it was filled, and never trained or loaded.",
        "Check that this layer was saved and trained; look for a fill (`ones_`, `constant_`) after loading.",
        Severity.WARNING,
    ),
    Rule(
        "GM309",
        "looks freshly initialised",
        "The values are spread just as the library initialises a new layer: no training and no file has "
        "touched them. `from_config` builds such a model without a word.",
        "Load with `from_pretrained`, not `from_config`, and read the loader's missing keys.",
        seen_in=("https://github.com/huggingface/diffusers/issues/3428",),
    ),
    Rule(
        "GM310",
        "EMA equals the trained weights",
        "The averaged copy and the trained weights are bit for bit the same. An average of several steps is "
        "not: one was saved in the place of the other, or the decay is 0.",
        "Check which copy the save took (`ema.store`, `copy_to`, `restore`), and the decay.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/issues/1818",),
    ),
    Rule(
        "GM311",
        "EMA never moved",
        "The averaged copy still equals the model that training started from, while the trained weights "
        "have moved: nothing ever updated it.",
        "Call `ema_model.step(...)` after every optimizer step, on the parameters that are trained.",
        seen_in=("https://github.com/huggingface/diffusers/issues/5783",),
    ),
    Rule(
        "GM312",
        "float32 that holds bfloat16",
        "Every value of the float32 tensors fits into bfloat16: the weights went through it. That loses "
        "nothing if they were bfloat16 before; a float32 model lost 16 bits of each value.",
        "If the weights were float32 before, look for a cast on the way (a merge, an export); else nothing "
        "to do.",
        Severity.NOTE,
        seen_in=("https://github.com/huggingface/peft/issues/1388",),
    ),
    Rule(
        "GM313",
        "values too large for float16",
        "Some values lie beyond 65504, the largest number of float16: loaded in float16 they become Inf, "
        "and the video black or noise.",
        "Load this component in bfloat16 or float32.",
        Severity.WARNING,
        seen_in=(
            "https://github.com/zai-org/CogVideo/commit/36f133378869a4e5e5480f1a0df43e1f80c24c3c",
            "https://github.com/huggingface/finetrainers/issues/182",
        ),
    ),
    Rule(
        "GM314",
        "tensors swapped",
        "A tensor holds what the reference keeps under another name of the same shape. Names, shapes and "
        "every statistic of the whole file are right.",
        "Look at the table of names in the converter: two lines of it are crossed.",
    ),
    Rule(
        "GM315",
        "values moved by some places",
        "The values are the reference's, at wrong places: from one tensor on, everything lies so many "
        "elements earlier or later in one long row. That is how weights look that were cut out of a flat "
        "buffer at a wrong offset.",
        "Do not use the file. Consolidate again with the version of DeepSpeed (or FSDP) that wrote the "
        "pieces.",
        seen_in=("https://github.com/deepspeedai/DeepSpeed/issues/1165",),
    ),
    Rule(
        "GM316",
        "many tensors times one number",
        "Each of the changed tensors is the reference's, multiplied by one and the same factor: weight "
        "decay acted and no gradient did, or an average or a merge was not normalised.",
        "Exclude frozen parameters from the optimizer (weight decay moves what has no gradient), and check "
        "the scale of merges and averages.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/issues/1009",),
    ),
    Rule(
        "GM317",
        "tensors that look re-initialised",
        "A few tensors have nothing in common with the reference's while all others stayed near them: no "
        "file filled them, and they hold the random values that a new layer starts with.",
        "Look for missing keys where the model was loaded for training (strict=False, a wrong prefix, a new "
        "shape).",
        seen_in=("https://github.com/zai-org/CogVideo/issues/374",),
    ),
)
