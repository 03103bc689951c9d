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
        example="generator = torch.Generator()\n"
        "generator.seed()                 # whatever seed the caller has given\n"
        "latents = torch.randn(shape, generator=generator)",
    ),
    Rule(
        "GM502",
        "global random state matters",
        "The sample changes with torch's, numpy's or Python's global random state although a generator was given.",
        "Pass the pipeline's generator to every call that draws random numbers.",
        seen_in=(
            "https://github.com/huggingface/diffusers/pull/13678",
            "https://github.com/Comfy-Org/ComfyUI/issues/15365",
            "https://github.com/Comfy-Org/ComfyUI/pull/4518",
        ),
        example="def prepare_latents(self, shape, generator):\n"
        "    return torch.randn(shape)    # the generator is not passed on",
    ),
    Rule(
        "GM503",
        "seed does not matter",
        "Two different seeds give the same sample: the generator is ignored.",
        "Pass `generator` through to the call that draws the initial latents.",
        example="generator = torch.Generator().manual_seed(42)    # not the caller's\n"
        "latents = torch.randn(shape, generator=generator)",
    ),
    Rule(
        "GM504",
        "sample is not finite",
        "The sampled latents or frames hold NaN or Inf.",
        "Look at the coverage and weights verdicts first; then at fp16 overflow in the VAE or the text encoder.",
        seen_in=("https://github.com/bmaltais/kohya_ss/issues/2541",),
        example="vae.to(torch.float16)            # its activations go beyond 65504\n"
        "frames = vae.decode(latents).sample\n"
        "frames.isnan().any()             # True",
    ),
    Rule(
        "GM505",
        "sample without content",
        "Every pixel of the sampled video has one value: black, white or grey frames.",
        "Look at NaN hidden by a cast to integers, and at the VAE's scaling factor.",
        seen_in=("https://github.com/huggingface/finetrainers/issues/182",),
        example="frames = vae.decode(latents).sample.nan_to_num()\n"
        "# every value was NaN: now every frame is grey",
    ),
    Rule(
        "GM506",
        "what was sampled before matters",
        "After another sample the same seed gives another video: the pipeline remembers a call.",
        "Look for state in the scheduler, in attention processors and in caches keyed by shape; set "
        "it anew in each call.",
        seen_in=("https://github.com/huggingface/diffusers/pull/2376",),
        example='pipeline(image, "a cat", generator=seeded(0))    # video A\n'
        'pipeline(image, "a dog", generator=seeded(1))\n'
        'pipeline(image, "a cat", generator=seeded(0))    # video B',
    ),
    Rule(
        "GM507",
        "fresh process gives another sample",
        "The same checkpoint and seed give another video in a new process of the same environment: it cannot be "
        "reproduced by anybody else.",
        "Look for iteration over sets (PYTHONHASHSEED), global settings, and caches that an earlier call has filled.",
        example="for name in set(self.blocks):    # its order depends on PYTHONHASHSEED\n"
        "    hidden = self.run(name, hidden)",
    ),
    Rule(
        "GM508",
        "thread count changes the sample beyond rounding",
        "Another number of threads changes more than the order of additions does: a kernel races, or the model is "
        "so badly conditioned that every machine shows another video.",
        "Sample with one thread and with several; compare layer by layer.",
        example="torch.set_num_threads(1)         # video A\n"
        "torch.set_num_threads(8)         # video B: farther than rounding explains",
    ),
    Rule(
        "GM509",
        "rest of the batch changes the sample",
        "A prompt sampled beside another gives another video than alone.",
        "Give each row a generator of its own; look for masks and normalisations that span the batch.",
        example='pipeline(image, ["a cat"])                       # video A\n'
        'pipeline([image] * 2, ["a cat", "a long story"]) # its first: video B',
    ),
)
