"""What the watcher of optimizers says of a step: rates, gradients, moments, movement."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.training.observer import observe_optimizers


def step(optimizer_class, gradient: float, *, lr: float = 0.1, steps: int = 1, **options):
    parameter = torch.nn.Parameter(torch.ones(3))
    with observe_optimizers() as observed:
        optimizer = optimizer_class([parameter], lr=lr, **options)
        for _ in range(steps):
            parameter.grad = torch.full((3,), gradient)
            optimizer.step()
    return observed


@pytest.mark.parametrize("lr", [0.0, 0.1])
@pytest.mark.parametrize(
    ("optimizer", "options", "has_state"),
    [
        (torch.optim.SGD, {}, False),
        (torch.optim.SGD, {"momentum": 0.9}, True),
        (torch.optim.AdamW, {"weight_decay": 0.0}, True),
        (torch.optim.Adagrad, {}, True),
        (torch.optim.RMSprop, {}, True),
    ],
)
def test_gradient_counts_as_learned_with_and_without_state(optimizer, options, has_state, lr):
    observed = step(optimizer, 1.0, lr=lr, **options)

    assert (observed.has_state, observed.has_moments, observed.learned) == (has_state, has_state, True)
    assert (observed.moved, observed.kept) == ((1, 0) if lr else (0, 1))
    assert observed.largest_rate == lr


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_zero_gradient_is_not_learned(optimizer):
    observed = step(optimizer, 0.0)

    assert (observed.steps, observed.has_moments, observed.learned) == (1, False, False)


def test_gradient_that_left_no_moment_is_not_learned():
    class Forgetful(torch.optim.AdamW):
        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.grad.zero_()
            return super().step(closure)

    observed = step(Forgetful, 1.0)

    assert (any(observed.with_gradient), observed.has_state, observed.learned) == (True, True, False)


def test_moments_that_came_with_a_later_step_count():
    parameter = torch.nn.Parameter(torch.ones(3))
    with observe_optimizers() as observed:
        optimizer = torch.optim.AdamW([parameter], lr=0.1)
        for value in (0.0, 1.0):
            parameter.grad = torch.full((3,), value)
            optimizer.step()

    assert observed.learned
    assert observed.with_gradient == [False, True]


def test_no_step_is_not_learned():
    with observe_optimizers() as observed:
        pass

    assert (observed.steps, observed.learned, observed.largest_rate) == (0, False, 0.0)
