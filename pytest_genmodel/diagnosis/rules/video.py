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
    ),
    Rule(
        "GM921",
        "frozen video",
        "Hardly anything moves from frame to frame, where the reference's videos move.",
        "Look at the text conditioning, at the temporal attention, and at what the model was trained on.",
    ),
    Rule(
        "GM922",
        "restless video",
        "Pixels or whole frames change much more from frame to frame than in the reference's videos.",
        "Look at the rotary table, at the temporal part of the decoder, and at the guidance scale.",
        Severity.WARNING,
    ),
    Rule(
        "GM923",
        "colours shifted",
        "Brightness or contrast lie outside the reference's own range. A style that was trained on purpose does this "
        "too.",
        "Look at the VAE's scaling and shift factors, and at its dtype.",
        Severity.WARNING,
    ),
    Rule(
        "GM924",
        "first frame is not the image",
        "An image-to-video model starts from its image; the first frame is much further from it than the "
        "reference's is.",
        "Look at the image latents: their scale, their channels, and the frame that they stand in.",
    ),
    Rule(
        "GM925",
        "latents of another scale",
        "After the same step from the same noise the latents spread much wider, or narrower, than the reference's.",
        "Look at prediction_type, at the schedule, and at the last layers of the denoiser.",
    ),
    Rule(
        "GM926",
        "another video",
        "The two are said to be the same model, and their videos under one seed differ by more than rounding.",
        "Look at the first finding about weights or configuration.",
    ),
)
