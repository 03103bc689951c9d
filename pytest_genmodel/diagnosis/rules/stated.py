"""Rules of what a configuration states of the file beside it: GM437."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM437",
        "configuration states a narrower dtype than the file",
        "Where no dtype is asked for, transformers 5 loads a model in the one that its configuration states, and so "
        "does a diffusers pipeline. The file holds more than that dtype can: the encoder computes in half precision, "
        "and nobody asked for it.",
        "Write the dtype of the file into config.json, or give the dtype when the pipeline is loaded.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/transformers/issues/36686",),
        example='text_encoder/config.json:         "dtype": "float16"\n'
        "text_encoder/model.safetensors:   float32\n"
        ">>> DiffusionPipeline.from_pretrained(path).text_encoder.dtype\n"
        "torch.float16",
    ),
)
