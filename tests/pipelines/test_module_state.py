"""The state of a module: whose tensors it counts as its own."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from pytest_genmodel.pipelines.module_state import state_of
from pytest_genmodel.pipelines.watching import FORWARD, CallKey


class Attention(torch.nn.Module):
    """Calls one of its two projections, and takes the weights of the other itself."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = torch.nn.Linear(4, 4, bias=False)
        self.to_out = torch.nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(self.to_q(x), self.to_out.weight)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(4))
        self.attn = Attention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.attn(x)


def tensors_of(path: str) -> list[str]:
    pipeline = SimpleNamespace(diffusers=SimpleNamespace(transformer=torch.nn.Sequential(Block(), Block())))
    called = {"", "0", "0.attn", "0.attn.to_q", "1", "1.attn", "1.attn.to_q"}
    state = state_of(pipeline, CallKey("transformer", path, FORWARD, 1), called - {path})
    return list(state.tensors)


def test_tensors_of_a_part_that_nobody_called_are_those_of_the_module_around_it():
    assert tensors_of("0.attn") == ["0.attn.to_out.weight"]
    assert tensors_of("0.attn.to_q") == ["0.attn.to_q.weight"]


def test_tensors_below_a_part_that_was_called_are_that_part_s():
    assert tensors_of("1") == ["1.scale"]
    assert tensors_of("") == []
