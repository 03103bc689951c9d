"""Rules of what a training step is conditioned on: GM730 to GM739."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

_COGVIDEO = "https://github.com/zai-org/CogVideo/issues/558"

RULES = (
    Rule(
        "GM730",
        "image condition of training is another than at inference",
        "For the same picture the denoiser is given another image latent in a training step than the pipeline "
        "gives it: another scale, another range of pixels, another image. The model learns a condition that it "
        "never meets.",
        "Encode the image as the pipeline does: pixels in [-1, 1], the VAE's scaling factor as the pipeline uses it.",
        seen_in=(
            "https://github.com/huggingface/finetrainers/issues/110",
            "https://github.com/pixeli99/SVD_Xtend/commit/5d155c1326f1a5db45618054f222c867c59067ef",
        ),
        example="# training, then the pipeline\n"
        "image_latents = vae.encode(image).latent_dist.mode() * 0.7\n"
        "image_latents = vae.encode(image).latent_dist.mode() / 0.7",
    ),
    Rule(
        "GM731",
        "image condition of training stands in another place",
        "The image latent is in another frame or in other channels of the denoiser's input than at inference, or the "
        "input has another number of channels.",
        "Put noise and image together in the pipeline's order, and fill the frames as it does.",
        example="# training, then the pipeline\n"
        "hidden = torch.cat([image_latents, noisy_latents], dim=2)\n"
        "hidden = torch.cat([noisy_latents, image_latents], dim=2)",
    ),
    Rule(
        "GM732",
        "no image reaches the denoiser in training",
        "In every training call that was seen the place of the image holds zeros or noise. The model learns to "
        "ignore the image.",
        "Look at how the image is noised (image + noise, not noise alone) and at how often the condition is dropped.",
        seen_in=(
            _COGVIDEO,
            "https://github.com/zai-org/CogVideo/issues/404",
        ),
        example="noise = torch.randn_like(image) * sigma\n"
        "noisy_image = noise              # should be image + noise",
    ),
    Rule(
        "GM733",
        "text condition of training is another than at inference",
        "For the same caption the denoiser is given another text condition in training: another length or padding, "
        "zeros, another prompt or another encoder's values.",
        "Encode captions with the pipeline's own encode_prompt and its max_sequence_length.",
        example="# training, then the pipeline\n"
        'tokenizer(caption, padding="longest")\n'
        'tokenizer(caption, padding="max_length", max_length=226)',
    ),
    Rule(
        "GM734",
        "timesteps of training follow another convention",
        "The denoiser is given timesteps of another range or shape in training than at inference.",
        "Give the denoiser the timestep as the pipeline does: in [0, 1000) for the schedulers of diffusers.",
        example="# training, then the pipeline\n"
        "timestep = torch.rand(batch)                     # 0 to 1\n"
        "timestep = torch.randint(0, 1000, (batch,))      # 0 to 999",
    ),
    Rule(
        "GM735",
        "argument of the denoiser is missing or another in training",
        "An argument that the pipeline gives the denoiser is not given in training, or has another value.",
        "Call the denoiser with the arguments that the pipeline's call gives it.",
        example="# training, then the pipeline\n"
        "transformer(hidden, text, timestep)\n"
        "transformer(hidden, text, timestep, image_rotary_emb=rotary)",
    ),
    Rule(
        "GM736",
        "positions of training are others than at inference",
        "The rotary tables (or other positions) of a training step differ from those that the pipeline makes for the "
        "same size, or are not given.",
        "Make the tables with the pipeline's own function, for the size and number of frames that is trained on.",
        seen_in=("https://github.com/zai-org/CogVideo/commit/2fb763d25f75eed3a02cd95dcfe0015ba5dde390",),
        example="rotary = rotary_tables(height=480, width=720, frames=49)   # always\n"
        "clip.shape                       # 17 frames of 256 x 384",
    ),
    Rule(
        "GM737",
        "clean latents of training have another scale",
        "The noisy latents of training do not hold the clip's latents at the scale that their timestep and the "
        "family's own objective say.",
        "Look at the VAE's scaling factor (multiplied when encoding) and at the range of the pixels.",
        example="latents = vae.encode(clip).latent_dist.sample()  # not scaled\n"
        "noisy = scheduler.add_noise(latents, noise, timestep)",
    ),
    Rule(
        "GM738",
        "image condition of training carries noise",
        "The image latent of training is that of inference with noise on it. Some trainers do so on purpose.",
        "Nothing, if it is meant; else look for noise that is added to the image.",
        Severity.NOTE,
        example="image = image + 0.02 * torch.randn_like(image)\n"
        "image_latents = vae.encode(image).latent_dist.mode()",
    ),
    Rule(
        "GM739",
        "conditions of training have another precision",
        "Conditions of training are of another dtype than at inference, or went through bfloat16 or float16.",
        "Nothing, if it is meant: encoders in half precision move the conditions by their rounding.",
        Severity.NOTE,
        example="text_encoder.to(torch.bfloat16)  # in training; float32 at inference\n"
        "embeddings = text_encoder(ids).last_hidden_state",
    ),
)
