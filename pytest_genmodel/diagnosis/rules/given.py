"""Rules of what a denoiser is given and of what is made of its latents, without a reference: GM970 to GM979."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM970",
        "image's latents stand in other frames than the model takes them from",
        "Each family was trained with the image's latents in certain latent frames: the first, every one, or an "
        "encoded clip of its own. They stand elsewhere: the video begins with another picture, or does not move.",
        "Look at where the pipeline puts the image's latents together with the noise, and at the order of the axes "
        "of channel and frame.",
        example="padding = latents.new_zeros(1, frames - 1, *image.shape[2:])\n"
        "image = torch.cat([padding, image], 1)     # the last frame\n"
        "image = torch.cat([image, padding], 1)     # the first: right",
    ),
    Rule(
        "GM971",
        "initial noise is not standard normal",
        "Sampling begins with noise of unit variance and without a mean, as it is drawn. Another factor or a mean "
        "reaches the denoiser: it sees a noise level that it is not told, and the video is flat, garish or tinted.",
        "Look for what lies between torch.randn and the first call: init_noise_sigma, scale_model_input, an offset "
        "that was meant for training.",
        example="latents = torch.randn(shape) * 0.9\n"
        "latents = torch.randn(shape) * scheduler.init_noise_sigma   # right",
    ),
    Rule(
        "GM972",
        "frames share their initial noise",
        "The noise of a latent frame is like that of another one, as it never is by chance. The model was trained "
        "with noise of its own in each frame, and what is alike at the start stays alike.",
        "Draw noise of the whole clip's shape; do not repeat one frame along time.",
        example="noise = torch.randn(1, channels, 1, height, width)\n"
        "latents = noise.expand(-1, -1, frames, -1, -1)",
    ),
    Rule(
        "GM973",
        "initial noise does not follow the seed",
        "Two seeds give the denoiser the same noise. Every video of one prompt and image is the same, whatever "
        "else of the run is drawn from the seed.",
        "Hand the generator of the call on to where the noise is drawn.",
        example="def prepare_latents(self, shape, generator):\n"
        "    return torch.randn(shape, generator=torch.manual_seed(0))",
    ),
    Rule(
        "GM974",
        "end of the prompt does not reach the denoiser",
        "A prompt that is no longer than the pipeline takes is cut: its last word changes nothing, or its tokens "
        "arrive in fewer states than there are. Captions of trained models are long, and what they end with is lost.",
        "Compare the length at which prompt or states are cut with the max_sequence_length that the model was "
        "trained with.",
        example="ids = tokenizer(prompt, max_length=77, truncation=True)   # 226 are taken",
    ),
    Rule(
        "GM975",
        "frames are not those that were decoded",
        "Between the VAE and the video a frame is halved, moved by a half and clipped, and nothing else. Here the "
        "frames are moved in time, turned, of other colours, or clipped where they must not be.",
        "Look at what happens between vae.decode and the frames (video_processor.postprocess_video).",
        example="video = vae.decode(latents).sample            # -1 to 1\n"
        "video = video.clamp(0, 1) / 2 + 0.5           # nothing is darker than grey",
    ),
    Rule(
        "GM976",
        "image's latents are given at another scale",
        "The image's latents must be scaled as the model was trained with them: most are multiplied by the VAE's "
        "scaling factor, some are not. At another scale the model sees another contrast than the image's.",
        "Look for the scaling factor between vae.encode and the denoiser: once, or never where the model's release "
        "has none.",
        example="image = vae.encode(pixels).latent_dist.sample()\n"
        "image = image * vae.config.scaling_factor          # this line is missing",
    ),
    Rule(
        "GM977",
        "halves of guidance are given different latents",
        "Guidance compares a prediction with the prompt and one without it, for the same noisy latents. Here each "
        "has latents of its own: what is taken for the prompt's influence is mostly the difference of two noises.",
        "Draw the noise once, and hand the same latents to both halves.",
        example="latents = torch.randn(2, *shape)           # one for each half\n"
        "latents = torch.cat([latents] * 2)          # the same for both: right",
    ),
)
