"""Which component's fault can be seen where: the way of the data from prompt and image to the video.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from collections.abc import Mapping

ROLES = (
    (r"tokenizer.*|processor", "tokenizer"),
    (r"text_encoder.*|prompt_adapter.*", "text_encoder"),
    (r"image_encoder.*|image_processor|feature_extractor", "image_encoder"),
    (r"vae.*", "vae"),
    (r"scheduler.*", "scheduler"),
    (r".*", "denoiser"),
)
"""What part a component plays, by its name; what has no such name is a denoiser."""
_FEEDS: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("text_encoder",),
    "text_encoder": ("denoiser",),
    "image_encoder": ("denoiser",),
    "scheduler": ("denoiser",),
    "vae": ("denoiser",),
    "denoiser": ("vae",),
}
"""To whom each gives what it puts out. A VAE feeds the denoiser by its
encoder, and by its compression, which decides the size of the latents."""
_LATENTS = r"hidden_states|sample|latents"
_ARGUMENTS = (
    (r"encoder_hidden_states_image.*|image_embeds.*|clip_fea.*", ("image_encoder",)),
    (r".*rotary.*|.*freqs.*|.*_ids|.*coords.*", ("denoiser", "vae")),
    (r"timesteps?|sigmas?|t", ("scheduler",)),
    (r"encoder_.*|text.*|prompt.*|pooled.*|guidance.*|negative prompt", ("text_encoder",)),
    (r"hidden_states\[.*|image.*|.*cond.*|video", ("vae", "image_encoder")),
    (_LATENTS, ("vae", "image_encoder", "scheduler")),
)
"""An argument of the denoiser, or a condition, and who makes it; what stands first decides."""
_DECODER = re.compile(r"(decoder|post_quant_conv)\b.*")


def role_of(component: str) -> str:
    """The part that a component plays."""
    return next(role for pattern, role in ROLES if re.fullmatch(pattern, component))


def comes_before(component: str | None, other: str) -> bool:
    """Whether what `component` puts out reaches `other`; None (the pipeline as a whole) reaches everything."""
    if component is None:
        return True
    return role_of(other) in _after(role_of(component))


def makes(component: str | None, argument: str, *, takes_image: bool) -> bool:
    """Whether `component`, or what comes after it, makes this argument of the denoiser (or this condition).

    Args:
        component: None for the pipeline as a whole.
        argument: `timestep`, `hidden_states[channels 4:8]`, `image`, `prompt` ...
        takes_image: whether an image is known to go through the VAE's encoder.
    """
    if component is None:
        return True
    makers = next((roles for pattern, roles in _ARGUMENTS if re.fullmatch(pattern, argument)), None)
    if makers is None:
        return False
    role = role_of(component)
    if role == "vae":
        return "vae" in makers and (takes_image or not re.fullmatch(_LATENTS, argument))
    return role in makers or any(
        after in makers for after in _after(role) if after not in ("vae", "denoiser")
    )


def shows_in(
    component: str | None, names: frozenset[str], location: str | None, *, takes_image: bool
) -> bool:
    """Whether a fault at `names` of `component` can be seen at a place of the sample.

    `step 3` lies before the decoder: a VAE's fault is not seen there, unless an image is known to go through its
    encoder and not only the decoder is damaged. `frame 5` lies behind everything.
    """
    if component is None or role_of(component) != "vae" or not (location or "").startswith("step"):
        return True
    return takes_image and not is_decoder(names)


def is_decoder(names: frozenset[str]) -> bool:
    """Whether all of the names are of a VAE's decoder."""
    return bool(names) and all(_DECODER.fullmatch(name) for name in names)


def _after(role: str) -> frozenset[str]:
    reached: set[str] = set()
    waiting = list(_FEEDS[role])
    while waiting:
        if (next_ := waiting.pop()) not in reached:
            reached.add(next_)
            waiting += _FEEDS[next_]
    return frozenset(reached)
