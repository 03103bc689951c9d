"""Rules of absolute checks, which need no reference: GM930 to GM949."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM930",
        "rotary positions are not those of their formula",
        "The denoiser turns its tokens by tables of sines and cosines. They are not given, are made for another "
        "grid, or are rounded: every token stands somewhere else than where the model learned it. Reference "
        "and candidate use the same library, so that comparing them shows nothing.",
        "Compare the installed diffusers with the version that the model was released with, and look at the size, "
        "patch and position settings of the denoiser.",
        seen_in=("https://github.com/zai-org/CogVideo/commit/2fb763d25f75eed3a02cd95dcfe0015ba5dde390",),
        example="tables = pipe._prepare_rotary_positional_embeddings(\n"
        "    height, width, num_frames, device)         # frames of the video\n"
        "    height, width, latents.size(1), device)    # those of the latents: right",
    ),
    Rule(
        "GM931",
        "computed table is not what its formula gives",
        "Some tables are never saved: the class computes them when the model is made. This one holds something else, "
        "and no file can tell, because none holds it.",
        "Look for a loader that makes the model without memory and fills in only what the file has; compare the "
        "installed diffusers and transformers with those that the model was released with.",
        seen_in=("https://github.com/huggingface/transformers/issues/48892",),
        example="self.register_buffer('inv_freq', inv_freq, persistent=False)\n"
        "# made on the meta device, then model.to_empty(): nothing fills it again",
    ),
    Rule(
        "GM932",
        "attention is not what it is defined to be",
        "Queries, keys, values and mask that were seen in a real call give another result than "
        "softmax(q k^T / sqrt(d) + mask) v worked out in float64, by more than the dtype allows: the scale, the "
        "mask or some keys are lost.",
        "Choose another attention backend, and compare the installed torch and diffusers with those that the "
        "model was released with.",
        seen_in=(
            "https://github.com/pytorch/pytorch/issues/191937",
            "https://github.com/Tencent-Hunyuan/HunyuanVideo/issues/31",
        ),
        example="F.scaled_dot_product_attention(q, k, v)   # and the mask?\n"
        "expected (float64):  softmax(q k^T / sqrt(d) + mask) v",
    ),
    Rule(
        "GM933",
        "kernel computes something else than its definition",
        "A linear layer, convolution, norm or activation that was seen in a real call gives another result than its "
        "definition in float64, by more than the dtype allows. Every model of this process is wrong with it.",
        "Compare the installed torch, cuDNN and driver with others; switch off the backend that the cause points at.",
        seen_in=("https://github.com/pytorch/pytorch/issues/163539",),
        example="torch.nn.functional.conv3d(x.bfloat16(), w.bfloat16())\n"
        "is off by 0.05 of its largest value (limit 0.04)",
    ),
    Rule(
        "GM934",
        "VAE is not given the image",
        "The picture that the pipeline encodes is another one than the image given, or lies in another range "
        "than -1 to 1. The model starts from colours that it never saw.",
        "Look at how the image is read and scaled: once from 0-255 to 0-1, once from there to -1 to 1.",
        seen_in=(
            "https://github.com/zai-org/CogVideo/commit/b36266367999d13993391f3e0fc7d1178e46fdf7",
            "https://github.com/pixeli99/SVD_Xtend/commit/5d155c1326f1a5db45618054f222c867c59067ef",
        ),
        example="image = to_tensor(picture)          # 0 to 1\n"
        "latents = vae.encode(image)         # needs image * 2 - 1",
    ),
    Rule(
        "GM935",
        "denoiser is told another timestep than the scheduler's",
        "The denoiser adapts to the noise level that it is told. It is told another one than the step is made for: "
        "a share of 1 instead of 1,000, or a rounded number.",
        "Hand the scheduler's timestep over as it is, in its own dtype.",
        seen_in=("https://github.com/huggingface/diffusers/issues/9405",),
        example="timestep = t.expand(batch).to(torch.bfloat16)\n"
        "transformer(hidden, timestep=timestep)          # 999 became 1000",
    ),
    Rule(
        "GM936",
        "guidance is applied wrongly",
        "With guidance g the step must be given u + g (c - u), where c is predicted with the prompt and u "
        "without. It is given something else: the halves have changed places, or the strength is another.",
        "Look at the order in which negative and positive prompt are stacked, and at how the prediction is "
        "taken apart.",
        example="text = torch.cat([positive, negative])\n"
        "uncond, cond = prediction.chunk(2)          # the other way round",
    ),
    Rule(
        "GM937",
        "latents are decoded at another scale",
        "The denoiser works on latents of about unit spread; before they are decoded, the VAE's factors must be "
        "taken out again, once. The colours of every frame are wrong otherwise.",
        "Divide by scaling_factor (or use latents_mean and latents_std) exactly once between denoiser and decoder.",
        seen_in=("https://github.com/huggingface/finetrainers/issues/168",),
        example="latents = latents * vae.config.scaling_factor      # must be /\nframes = vae.decode(latents)",
    ),
    Rule(
        "GM938",
        "decoder shows latents in another place",
        "What is changed in one latent frame, or in one corner, must show there and not elsewhere in the video: "
        "frames in another order, a picture that is mirrored, frames that stand still although the latents "
        "move.",
        "Look at the axes between latents and pixels: batch, channel, frame, height, width.",
        example="video = vae.decode(latents).sample       # batch, channel, frame, ...\n"
        "video = video.flip(2)                    # the frames are turned round",
    ),
    Rule(
        "GM939",
        "another number of frames",
        "The pipeline makes another number of frames than its family's rule says for what was asked.",
        "Look at the VAE's temporal compression, and at frames that are dropped at the beginning or the end.",
        example="pipe(..., num_frames=9)\nlatents (1, 16, 3, 60, 90), video (12, 3, 480, 720)",
    ),
    Rule(
        "GM940",
        "noise is added at another level than the schedule's",
        "The scheduler mixes clean latents and noise with other factors than its own schedule names. What is trained "
        "with it learns levels that no sample goes through.",
        "Compare the installed diffusers; add noise in float32 and cast afterwards.",
        seen_in=("https://github.com/huggingface/diffusers/pull/9004",),
        example="alphas = scheduler.alphas_cumprod.bfloat16()\n"
        "(1 - alphas[0]) ** 0.5                # 0 instead of 0.029",
    ),
    Rule(
        "GM941",
        "model predicts something else than its scheduler takes it to",
        "For a clip with known noise the model's output is close to one kind of prediction, and the scheduler's "
        "configuration names another: every step goes the wrong way, although both load without a word.",
        "Set prediction_type in scheduler_config.json to what the model was trained for, or use its scheduler.",
        example='scheduler_config.json:  "prediction_type": "epsilon"\n'
        "the model's output is 0.21 from v_prediction, 0.81 from epsilon",
    ),
    Rule(
        "GM942",
        "VAE does not give the picture back",
        "Encoded and decoded again, a clip must come back. It does so only when it is turned, inverted, or "
        "taken to lie in another range: something before or after the VAE is wrong.",
        "Look at the range that pixels are brought to, at the order of the colours, and at the axes.",
        example="back = vae.decode(vae.encode(clip))\n"
        "# its correlation with the clip: -0.09, with red and blue exchanged: 0.94",
    ),
    Rule(
        "GM943",
        "scaling factor does not fit the VAE",
        "Scaled latents of real pictures have about unit spread, as the noise has. These are far wider or narrower: "
        "the factor belongs to another VAE, or is applied twice or not at all.",
        "Copy the VAE's config.json from the model that its weights come from.",
        Severity.WARNING,
        example='vae/config.json:  "scaling_factor": 0.18215\n'
        "std of encode(picture) * scaling_factor = 0.16     (about 1 is right)",
    ),
    Rule(
        "GM944",
        "decoder forgets what came before",
        "Decoders of long clips work in pieces and keep the end of one for the next. Here nothing of a latent frame "
        "reaches the next piece: colours shift, or a seam shows, at each one.",
        "Look at the cache between pieces of the decoder (conv_cache, feat_map), and whether it is handed on.",
        seen_in=("https://github.com/Comfy-Org/ComfyUI/issues/13090",),
        example="for piece in latents.split(2, dim=2):\n"
        "    frames += decoder(piece, conv_cache=None)     # must be the last one's",
    ),
    Rule(
        "GM945",
        "denoiser is told another condition than was asked for",
        "A number that the model takes as an input (frames a second, strength of the noise on the image, "
        "guidance) is not the one that was asked for.",
        "Compare the call of the denoiser in the installed pipeline with that of the model's release.",
        seen_in=("https://github.com/pixeli99/SVD_Xtend/commit/29eb24a270700110c8b40cbed1ed1b763421dce7",),
        example="image = image + 0.02 * noise\nadded_time_ids = [6, 127, 0.0]          # says that there was none",
    ),
    Rule(
        "GM946",
        "rotary positions have no effect",
        "The tables of sines and cosines are right, and the prediction is the same, bit for bit, when they turn "
        "nothing: the attention does not use them, and the model knows neither place nor time.",
        "Look at the attention processor that is installed, and at what it does with its rotary argument.",
        example="def __call__(self, attn, hidden_states, rotary_emb=None):\n"
        "    query, key, value = project(attn, hidden_states)\n"
        "    return attention(query, key, value)       # rotary_emb is never used",
    ),
)
