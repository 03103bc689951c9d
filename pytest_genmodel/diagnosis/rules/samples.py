"""Rules of determinism and samples: 5xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
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
)
