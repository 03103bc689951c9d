"""Latents in one layout, (channel, frame, height, width), and the scale between denoiser and VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.recording import Argument, Recorded

if TYPE_CHECKING:
    import torch

NOISY = ("hidden_states", "sample")
"""What denoisers call the argument that holds the noise."""
UNKNOWN = "the latents are larger than what is kept of a call, or laid out in a way that is not known here"


def channels_first(decoded: list[torch.Tensor]) -> torch.Tensor:
    """(channel, frame, height, width) of all that the VAE was given or made: a clip, or pictures one by one."""
    import torch

    parts = [value[0] if value.ndim == 5 else value.transpose(0, 1) for value in decoded]
    return torch.cat(parts, 1)


def clip_of(
    latents: torch.Tensor, like: torch.Tensor, axes: tuple[str, ...], row: int = 0
) -> torch.Tensor | None:
    """One row of latents as (channel, frame, height, width); None where they are laid out in a way not known here.

    Args:
        latents: a clip, tokens (batch, token, channel), or pictures in place of the batch.
        like: whose last two axes are the height and width of latents.
        axes: the family's `latent_axes`.
        row: of the batch; pictures are taken as one row.
    """
    high, wide = like.shape[-2:]
    if latents.ndim == 3:
        if latents.shape[1] % (high * wide):
            return None
        return latents[row].T.reshape(latents.shape[-1], -1, high, wide)
    if latents.ndim == 5:
        latents = latents[row].transpose(0, 1) if axes[1:3] == ("frame", "channel") else latents[row]
    elif latents.ndim == 4:
        latents = latents.transpose(0, 1)
    return latents if latents.ndim == 4 and tuple(latents.shape[2:]) == (high, wide) else None


def argument_clip(
    context: Context, told: Mapping[str, Argument], name: str, like: torch.Tensor, row: int = -1
) -> torch.Tensor | None:
    """A denoiser's argument as a clip, of the last row (the prompt's) or another; `like` is as high and wide."""
    held = told.get(name)
    if not isinstance(held, Recorded) or not held.whole:
        return None
    return clip_of(held.values, like, context.candidate.family.latent_axes, row)


def noisy_argument(told: Mapping[str, Argument]) -> str:
    """The name of the argument that holds the noise."""
    return next((name for name in NOISY if name in told), NOISY[0])


def scaling_factor(config: Mapping[str, Any]) -> float:
    """The autoencoder's; 1 where its configuration names none."""
    return float(config.get("scaling_factor") or 1.0)


def vae_scale(
    context: Context, config: Mapping[str, Any], channels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain and offset of each channel from the denoiser's latents to the decoder's: z std / scaling_factor + mean."""
    import torch

    held = dict(context.candidate.diffusers.vae.named_buffers())  # LTX-Video keeps them there
    mean, std = (
        held.get(name) if config.get(name) is None else config[name]
        for name in ("latents_mean", "latents_std")
    )
    one = torch.ones(channels, dtype=torch.float64)
    std = one if std is None else torch.as_tensor(std, dtype=torch.float64).cpu()
    mean = 0 * one if mean is None else torch.as_tensor(mean, dtype=torch.float64).cpu()
    return std / scaling_factor(config), mean + float(config.get("shift_factor") or 0.0)
