"""Rules of the round trip: 6xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM601",
        "save and reload changes weights",
        "A tensor that was saved comes back with other values, or does not come back.",
        "Look at how the class saves: buffers registered with persistent=False, tied tensors, casts on save.",
        example='self.register_buffer("pos_embedding", table, persistent=False)\n'
        "# trained or replaced since: save_pretrained leaves it out",
    ),
    Rule(
        "GM602",
        "save and reload changes configuration",
        "A value of the effective configuration does not survive saving.",
        "Set it with register_to_config, so that save_pretrained writes it.",
        example="pipeline.scheduler.set_shift(5.0)\n"
        'pipeline.save_pretrained("out")  # scheduler_config.json: "shift": 1.0',
    ),
    Rule(
        "GM603",
        "save and reload changes tokens",
        "The reloaded tokenizer gives other ids for the same text.",
        "Save the tokenizer with the transformers version that loads it.",
        example='ids = tokenizer("a cat").input_ids\n'
        'tokenizer.save_pretrained("out")\n'
        'AutoTokenizer.from_pretrained("out")("a cat").input_ids   # not ids',
    ),
    Rule(
        "GM604",
        "save and reload changes the sample",
        "The reloaded pipeline gives another video for the same seed.",
        "Look at what lives outside weights and configuration: hooks, processors, scheduler state.",
        example="transformer.register_forward_hook(scale_output)  # in no file\n"
        'pipeline.save_pretrained("out")',
    ),
    Rule(
        "GM605",
        "setting of the run is not saved",
        "A value was set on the live component by a call of its own. The video depends on it, and "
        "save_pretrained does not write it: whoever loads the checkpoint gets another video.",
        "Set it in the configuration (register_to_config, or from_config with the value), and save again.",
        seen_in=("https://github.com/huggingface/diffusers/pull/10269",),
        example="pipe.scheduler.set_shift(7.0)\npipe.save_pretrained(out)      # scheduler_config.json keeps "
        "the old one",
    ),
    Rule(
        "GM606",
        "way of working is not saved",
        "The live component works in slices or tiles that it was told to; its configuration does not say so. Whoever "
        "loads the checkpoint needs more memory, and sees no seams.",
        "Nothing to do; say in the model's card how it was run.",
        Severity.NOTE,
        example="pipe.vae.enable_tiling()\npipe.save_pretrained(out)      # vae/config.json says nothing of tiles",
    ),
)
