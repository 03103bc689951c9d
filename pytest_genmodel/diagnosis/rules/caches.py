"""Rules of precomputed data sets: GM745 to GM749."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM745",
        "cached text is stale",
        "A precomputed text embedding is not what the text encoder gives for its caption: it comes from another "
        "encoder, another length or another caption.",
        "Delete the cache and let it be made again; make its name depend on the encoder, its length and the caption.",
        example="# made with max_length=77; the trainer now says 226\n"
        'embedding = torch.load("cache/clip-0001.text.pt")',
    ),
    Rule(
        "GM746",
        "cached latents are stale",
        "Precomputed latents are not what the VAE gives for their clip: another VAE, another scale, other pixels.",
        "Delete the cache and let it be made again; scale latents in one place, when they are made or when they are "
        "used.",
        example='# made with another model\'s VAE\nlatents = torch.load("cache/clip-0001.latents.pt")',
    ),
    Rule(
        "GM747",
        "cached item belongs to another clip",
        "A cached item holds what belongs to another caption or clip of the data set: keys that do not tell items "
        "apart, or rows that were paired anew.",
        "Make the key depend on the clip and on everything that is done to it.",
        seen_in=("https://github.com/huggingface/diffusers/pull/8830",),
        example="key = hash(caption)              # two clips have this caption\n"
        "cache[key] = vae.encode(clip)    # the second takes the first one's place",
    ),
    Rule(
        "GM748",
        "cached latents are not scaled",
        "Latents are stored as the VAE gives them, without its scaling. That is right where the training step scales "
        "them (see training_conditions).",
        "Nothing, where the loop scales them; else scale them once.",
        Severity.NOTE,
        example='torch.save(vae.encode(clip).latent_dist.sample(), "clip-0001.latents.pt")\n'
        "# without vae.config.scaling_factor: the training step must apply it",
    ),
    Rule(
        "GM749",
        "cached in another precision",
        "The cache holds rounded values. Fresh ones differ from them by that rounding.",
        "Nothing, if it is meant.",
        Severity.NOTE,
        example='torch.save(embedding.to(torch.bfloat16), "clip-0001.text.pt")\n'
        "# encoded afresh it is float32",
    ),
)
