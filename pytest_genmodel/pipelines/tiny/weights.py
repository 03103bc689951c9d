"""Seeded initial weights in which no tensor is dead and no two tensors are alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# The CPU generator and the default dtype belong to the whole process, so two builds in threads must take turns.
_TURN = threading.Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` in float32 on the CPU inside the block; give the caller's random state back after it.

    Only the CPU generator is used: ``torch.manual_seed`` would reach those of every accelerator as well.
    """
    import torch

    with _TURN, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def give_statistics(vae: Any) -> None:
    """Draw the means and deviations of latents that a trained autoencoder keeps beside its weights.

    Zeros and ones would hide a table that is never read.
    """
    import torch

    shape = vae.latents_mean.shape
    vae.latents_mean = torch.randn(shape) * 0.3
    vae.latents_std = torch.rand(shape) * 0.5 + 0.5


def wake(module: torch.nn.Module, std: float = 0.02) -> None:
    """Add N(0, `std`) to every constant parameter of `module`, in place: zero matrices, biases, norm scales.

    A zero matrix hides what lies behind it, and equal tensors can be swapped unseen.
    """
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(torch.randn_like(parameter) * std)
