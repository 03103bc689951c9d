"""What can be seen of a video without knowing what it shows: noise, motion, flicker, colour, the first frame."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf, log10
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True)
class Observables:
    """Numbers of one video; all from frames in [0, 1].

    `smoothness` is the least spatial autocorrelation at a lag of one pixel of any frame (1: smooth, 0: noise);
    `motion` the mean absolute change of a pixel from frame to frame; `flicker` the mean absolute change of a whole
    frame's brightness; `brightness` and `contrast` the mean and the standard deviation of the luma; `colour` the mean
    distance of the channels from the luma; `fidelity` the PSNR in dB of the first frame to the input image.
    """

    smoothness: float
    motion: float
    flicker: float
    brightness: float
    contrast: float
    colour: float
    fidelity: float


def observe(frames: torch.Tensor, image: torch.Tensor) -> Observables:
    """Measure a video.

    Args:
        frames: float32 (frame, 3, height, width) in [0, 1], two pixels or more each way.
        image: float32 (3, height, width) in [0, 1], what the first frame should show.
    """
    weights = frames.new_tensor(LUMA)
    luma = (frames * weights[:, None, None]).sum(1)
    changes = frames.diff(dim=0).abs()
    levels = luma.mean((1, 2))
    return Observables(
        smoothness=min(_autocorrelation(frame) for frame in luma),
        motion=float(changes.mean()) if len(frames) > 1 else 0.0,
        flicker=float(levels.diff().abs().mean()) if len(frames) > 1 else 0.0,
        brightness=float(luma.mean()),
        contrast=float(luma.std()),
        colour=float((frames - luma[:, None]).abs().mean()),
        fidelity=psnr(frames[0], image),
    )


def mean(several: list[Observables]) -> Observables:
    """The mean of each number."""
    return Observables(
        **{f.name: sum(getattr(one, f.name) for one in several) / len(several) for f in fields(Observables)}
    )


def spread(several: list[Observables]) -> Observables:
    """The range of each number, largest minus smallest."""
    values = {f.name: [getattr(one, f.name) for one in several] for f in fields(Observables)}
    return Observables(**{name: max(numbers) - min(numbers) for name, numbers in values.items()})


def psnr(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images or videos in [0, 1]; inf where they are equal."""
    error = float((ours.double() - theirs.double()).square().mean())
    return inf if error == 0 else -10 * log10(error)


def ssim(ours: torch.Tensor, theirs: torch.Tensor) -> list[float]:
    """Structural similarity of each pair of frames, (frame, 3, height, width) in [0, 1]: 1 where they are equal."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    side = min(11, ours.shape[-1], ours.shape[-2])
    values: Any = structural_similarity_index_measure(
        ours, theirs, data_range=1.0, reduction="none", kernel_size=side - 1 + side % 2
    )
    return [float(value) for value in values.reshape(-1)]


def _autocorrelation(picture: torch.Tensor) -> float:
    """Correlation of a picture with itself, one pixel to the right and one down; 1 for one without structure."""
    centred = picture - picture.mean()
    power = float(centred.square().mean())
    if power < 1e-12:
        return 1.0
    right = float((centred[:, 1:] * centred[:, :-1]).mean())
    down = float((centred[1:] * centred[:-1]).mean())
    return (right + down) / (2 * power)
