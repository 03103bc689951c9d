"""What a claim may cost at which level."""

from __future__ import annotations

from math import prod

from pytest_genmodel.invariants.context import Context

LARGEST_QUICK = 200_000_000
"""Denoiser parameters up to which claims that train, or sample whole clips, are judged at the quick level."""


def denoiser_size(context: Context) -> int:
    """Number of parameters of the candidate's denoisers, as stored."""
    components = context.candidate.checkpoint.components
    denoisers = [components[name] for name in context.candidate.denoisers]
    return sum(prod(tensor.shape) for part in denoisers for tensor in part.weights.tensors.values())


def require_small_or_full(context: Context, what: str) -> None:
    """Skip where `what` of a large model costs more than the quick level may."""
    if not context.is_full and (size := denoiser_size(context)) > LARGEST_QUICK:
        context.skip(f"the denoiser has {size / 1e9:.2g}e9 parameters: {what} needs --genmodel-level=full")
