"""Three real training steps of the tiny CogVideoX transformer, taken once: its weights, and each step's gradients."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.training.loop import load_for_training, moving_clip

STEPS = 3


@dataclass(frozen=True)
class Recorded:
    """What an optimizer is given: while the rate is 0, later gradients are the same whichever it is."""

    weights: tuple[torch.Tensor, ...]
    gradients: tuple[tuple[torch.Tensor, ...], ...]

    def parameters(
        self, *, takes: str = "all", dtype: str = "float32"
    ) -> tuple[list[torch.nn.Parameter], list[int]]:
        """New parameters, and their numbers in `gradients`."""
        numbers = [n for n, weight in enumerate(self.weights) if takes == "all" or weight.ndim == 2]
        return [
            torch.nn.Parameter(self.weights[n].to(getattr(torch, dtype)).clone()) for n in numbers
        ], numbers


def record(reference: Path) -> Recorded:
    """Take the steps at rate 0, clipped as the built-in trainers clip them; a LoRA's factor of zeros comes last."""
    pipeline = load_for_training(reference)
    transformer = pipeline.diffusers.transformer.requires_grad_(True).train()
    probe = make_probe(ProbeWishes(seed=0), pipeline.checkpoint, pipeline.family, full=False)
    clip, generator = moving_clip(probe), torch.Generator("cpu").manual_seed(0)
    gradients = []
    for _ in range(STEPS):
        transformer.zero_grad()
        with quiet():
            pipeline.family.training_loss(pipeline.diffusers, clip, probe.prompt, generator).backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        factor = torch.randn(16, 4, generator=generator) * 0.01
        gradients.append((*(p.grad.clone() for p in transformer.parameters()), factor))
    weights = (*(p.detach().clone() for p in transformer.parameters()), torch.zeros(16, 4))
    return Recorded(weights, tuple(gradients))


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class of a row, `torch.optim.AdamW`."""
    module, _, cls = name.rpartition(".")
    return getattr(importlib.import_module(module), cls)


def take_steps(
    recorded: Recorded,
    name: str,
    options: Mapping[str, Any],
    *,
    lr: float,
    takes: str = "all",
    dtype: str = "float32",
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Make the optimizer, take the steps, swap to the weights that would be saved; gives (before, after) pairs."""
    parameters, numbers = recorded.parameters(takes=takes, dtype=dtype)
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = optimizer_class(name)(parameters, **{"lr": lr, **options})
    if hasattr(optimizer, "train"):
        optimizer.train()
    for gradients in recorded.gradients:

        def closure(gradients: tuple[torch.Tensor, ...] = gradients) -> torch.Tensor:
            optimizer.zero_grad()
            loss = sum((p * gradients[n].to(p.dtype)).sum() for p, n in zip(parameters, numbers, strict=True))
            loss.backward()
            return loss.detach()

        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
            continue
        for parameter, number in zip(parameters, numbers, strict=True):
            gradient = gradients[number].to(parameter.dtype)
            parameter.grad = gradient.to_sparse(1) if takes == "sparse" else gradient.clone()
        optimizer.step()
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return list(zip(before, (parameter.detach() for parameter in parameters), strict=True))


def same_bits(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    """Whether every bit is what it was."""
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)


def all_finite(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    """Whether no weight became NaN or Inf."""
    return all(bool(after.isfinite().all()) for _, after in pairs)
