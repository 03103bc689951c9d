"""The module whose checkpoints are the samples: a few hundred numbers, and each case that a sharded layout knows.

Odd sizes (padding), a single number, a frozen parameter, a tied one, a float and an integer buffer, and (by
`groups`) two parameter groups.
"""

from __future__ import annotations

import torch
from torch import nn


class Small(nn.Module):
    """A module of no use but to be saved."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 7)
        self.blocks = nn.ModuleList([nn.Linear(7, 7) for _ in range(2)])
        self.frozen = nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.tensor([1.1]))
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.frozen.requires_grad_(False)
        self.register_buffer("table", torch.linspace(-1, 1, 9).reshape(3, 3))
        self.register_buffer("count", torch.tensor([3, 4]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use every parameter."""
        hidden = self.embed(x) + self.head(x)
        for block in self.blocks:
            hidden = block(hidden) * self.scale
        return self.frozen(hidden).square().mean()


def small() -> Small:
    """The same numbers every time, none of which bfloat16 holds exactly."""
    generator = torch.Generator().manual_seed(7)
    model = Small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return model


def groups(model: Small) -> list[dict[str, object]]:
    """Two parameter groups: weights with decay, and the rest without."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
