"""How two samples part: a curve over the denoising steps, and one over the frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_genmodel.pipelines.observables import psnr

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.sampling import Sample


def curves(ours: Sample, theirs: Sample) -> Mapping[str, list[float]]:
    """Three curves: `latents` and `cosine` by step, `psnr` by frame; one is left out where shapes differ."""
    found: dict[str, list[float]] = {}
    if ours.latents.shape == theirs.latents.shape:
        found["latents"] = distances(ours.latents, theirs.latents)
        found["cosine"] = cosines(ours.latents, theirs.latents)
    if ours.frames.shape == theirs.frames.shape:
        found["psnr"] = psnrs(ours.frames, theirs.frames)
    return found


def distances(ours: torch.Tensor, theirs: torch.Tensor) -> list[float]:
    """The relative L2 distance of each entry of the first axis."""
    return [distance(a, b) for a, b in zip(ours, theirs, strict=True)]


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The relative L2 distance ||ours - theirs|| / ||theirs|| of two tensors of one shape, in float64."""
    theirs = theirs.double()
    return float((ours.double() - theirs).norm() / theirs.norm().clamp_min(1e-30))


def psnrs(ours: torch.Tensor, theirs: torch.Tensor) -> list[float]:
    """The PSNR in dB of each frame, (frame, channel, height, width) in [0, 1]; infinite where they are equal."""
    return [psnr(a, b) for a, b in zip(ours, theirs, strict=True)]


def cosines(ours: torch.Tensor, theirs: torch.Tensor) -> list[float]:
    """The cosine similarity of each entry of the first axis; 1 for two that are zero."""
    found = []
    for a, b in zip(ours.double(), theirs.double(), strict=True):
        norms = float(a.norm() * b.norm())
        product = float((a * b).sum())
        found.append(product / norms if norms else 1.0 if not a.any() and not b.any() else 0.0)
    return found


def first_step_apart(ours: Sample, theirs: Sample) -> int | None:
    """The first step, from 1, after which the latents are not equal bit by bit; None where all are."""
    if ours.latents.shape != theirs.latents.shape:
        return None
    pairs = zip(ours.latents, theirs.latents, strict=True)
    return next((step for step, (a, b) in enumerate(pairs, start=1) if not bool((a == b).all())), None)


def agree(ours: Sample, theirs: Sample) -> bool:
    """Whether latents and frames are equal bit by bit (NaN is equal to nothing)."""
    return all(
        a.shape == b.shape and bool((a == b).all())
        for a, b in ((ours.latents, theirs.latents), (ours.frames, theirs.frames))
    )
