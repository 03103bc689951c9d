"""Rules of what the video shows: 92x."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM920",
        "noise in the video",
        "Neighbouring pixels agree less than in any video of the reference: what a damaged denoiser leaves of a "
        "scene.",
        "Look at the first finding about weights or configuration; `genmodel diff` names the tensors that differ.",
        seen_in=("https://github.com/zai-org/CogVideo/issues/374",),
        example="# smoothness: candidate, reference (1: smooth, 0: noise)\n0.12\n0.97",
    ),
    Rule(
        "GM921",
        "frozen video",
        "Hardly anything moves from frame to frame, where the reference's videos move.",
        "Look at the text conditioning, at the temporal attention, and at what the model was trained on.",
        example="frames = frames[:1].expand_as(frames)            # the first, repeated\n"
        "# motion 0.000, the reference's 0.021",
    ),
    Rule(
        "GM922",
        "restless video",
        "Pixels or whole frames change much more from frame to frame than in the reference's videos.",
        "Look at the rotary table, at the temporal part of the decoder, and at the guidance scale.",
        Severity.WARNING,
        example="# motion, mean change of a pixel from frame to frame: candidate, reference\n0.19\n0.02",
    ),
    Rule(
        "GM923",
        "colours shifted",
        "Brightness or contrast lie outside the reference's own range. A style that was trained on purpose does this "
        "too.",
        "Look at the VAE's scaling and shift factors, and at its dtype.",
        Severity.WARNING,
        example="frames = vae.decode(latents).sample              # scaling_factor missing\n"
        "# brightness 0.71, the reference's 0.48",
    ),
    Rule(
        "GM924",
        "first frame is not the image",
        "An image-to-video model starts from its image; the first frame is much further from it than the "
        "reference's is.",
        "Look at the image latents: their scale, their channels, and the frame that they stand in.",
        example="frames = vae.decode(latents).sample.flip(2)      # from last to first\n"
        "# the image that was given is the last frame",
    ),
    Rule(
        "GM925",
        "latents of another scale",
        "After the same step from the same noise the latents spread much wider, or narrower, than the reference's.",
        "Look at prediction_type, at the schedule, and at the last layers of the denoiser.",
        example="# the spread of the latents after step 1: candidate, reference\n3.9\n0.98",
    ),
    Rule(
        "GM926",
        "another video",
        "The two are said to be the same model, and their videos under one seed differ by more than rounding.",
        "Look at the first finding about weights or configuration.",
        example="$ pytest --genmodel-ref=base --genmodel-ckpt=converted \\\n"
        "    --genmodel-expect=identical\n"
        "# frame 3: PSNR 24 dB",
    ),
)
