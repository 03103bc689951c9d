"""Rules of the first divergence: 950 to 959."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM950",
        "samples part where weights differ",
        "Everything before this module is equal on both sides, its inputs are equal, and its weights or buffers are "
        "not: this is where the difference enters the sample.",
        "Compare this tensor with the reference's, and look for what wrote it: the save, a key that was not loaded, "
        "training.",
        example="transformer_blocks.0.attn1.to_q  inputs equal, output 0.31 off\n"
        "  weight: the reference's times 0.5",
    ),
    Rule(
        "GM951",
        "samples part where a setting differs",
        "Everything before this module is equal on both sides, its inputs and its weights are equal, and one of its "
        "settings is not: an epsilon, a scale, a processor, an adapter, a method that was replaced, the mode.",
        "Set the value that the reference has, or find out what sets another one after loading.",
        example="transformer_blocks.0.norm1.norm  inputs equal, output 2e-4 off\n"
        "  eps: 1e-06, the reference's 1e-05",
    ),
    Rule(
        "GM952",
        "samples part in the pipeline's own code",
        "Every call before this one gave the same results on both sides, and this one is given something else: the "
        "difference comes from between the modules, where latents are scaled, packed, concatenated, and noise is "
        "drawn.",
        "Look at the named argument, and at the configuration values that the pipeline computes it with.",
        example="transformer, call 1, step 1: hidden_states[channels 4:8] differs\n"
        "  vae: scaling_factor is 0.13025, the reference's 1.15258426",
    ),
    Rule(
        "GM953",
        "samples part by what is called",
        "Up to here both sides made the same calls with the same values, and now they make different ones: another "
        "number of steps, a block that is passed over, another expert.",
        "Look at the code and the configuration that decide what is called next: depth, steps, boundaries, caches.",
        example="reference: transformer_blocks.7, call 1, step 1\ncandidate: norm_final, call 1, step 1",
    ),
    Rule(
        "GM954",
        "equal module gives other outputs",
        "Inputs, weights, buffers and settings of this module are equal on both sides, and what it gives is not: the "
        "code or the kernel that runs is another, or it draws random numbers of its own.",
        "Look for dropout, a kernel that is chosen by size or load, a patched function; run the module alone, twice.",
        example="def forward(self, x):\n    return self.proj(x) + 1e-3 * torch.randn_like(x)",
    ),
    Rule(
        "GM955",
        "samples part by rounding alone",
        "No module differs in itself: differences of the size of rounding grow from call to call until they can be "
        "seen.",
        "Nothing to do if kernels, devices or the order of additions are meant to differ; otherwise compare in "
        "float32 on one machine.",
        severity=Severity.NOTE,
        example="to_q with a fused LoRA: 4e-7 off\nnorm_out, 40 calls later: 1.3e-5 off",
    ),
    Rule(
        "GM956",
        "sample differs and its trace does not",
        "The samples differed, and when both were made again with every module watched they did not: what differs "
        "does not happen in every run, or has reached the other side by now, as a class that was patched in between.",
        "Look for randomness past the generator, for what an earlier call or a trainer leaves behind, and for races.",
        severity=Severity.NOTE,
        example="sample 1: frames differ\nsample 2, watched: 1324 of 1324 events are equal",
    ),
)
