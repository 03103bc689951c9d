"""Gradients that a step uses although an earlier one did already, in loops that are right and loops that are not."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.training.observer import observe_optimizers


def loop(step, *, steps=3, dtype=torch.float32, lr=0.1, same_batch=False, optimizer_class=torch.optim.AdamW):
    """Train a small model by `step(model, optimizer, loss_of)`; give what was seen of its gradients."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).to(dtype)
    generator = torch.Generator().manual_seed(0)

    def loss_of():
        draw = torch.Generator().manual_seed(1) if same_batch else generator
        return model(torch.randn(8, 8, generator=draw).to(dtype)).square().mean()

    with observe_optimizers() as observed:
        optimizer = optimizer_class(model.parameters(), lr=lr)
        for _ in range(steps):
            step(model, optimizer, loss_of)
    assert observed.steps >= steps
    return observed.old_gradients


def plain(model, optimizer, loss_of):
    loss_of().backward()
    optimizer.step()
    optimizer.zero_grad()


def in_place(model, optimizer, loss_of):
    loss_of().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def by_hand(model, optimizer, loss_of):
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    loss_of().backward()
    optimizer.step()


def accumulating(model, optimizer, loss_of):
    for _ in range(3):
        (loss_of() / 3).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()
    optimizer.zero_grad()


def by_value(model, optimizer, loss_of):
    loss_of().backward()
    torch.nn.utils.clip_grad_value_(model.parameters(), 1e-3)
    optimizer.step()
    optimizer.zero_grad()


def given(model, optimizer, loss_of):
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def filtered(model, optimizer, loss_of):
    """A trainer that adds a share of earlier gradients on purpose."""
    loss_of().backward()
    for parameter in model.parameters():
        parameter.average = parameter.grad * 0.1 + 0.9 * getattr(parameter, "average", 0.0)
        parameter.grad.add_(parameter.average)
    optimizer.step()
    optimizer.zero_grad()


def with_closure(model, optimizer, loss_of):
    def closure():
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("lr", [0.0, 0.1])
@pytest.mark.parametrize("same_batch", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "step", [plain, in_place, by_hand, accumulating, by_value, given, filtered, with_closure]
)
def test_sound_loop_uses_no_old_gradients(step, dtype, same_batch, lr):
    assert loop(step, dtype=dtype, same_batch=same_batch, lr=lr) == []


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
def test_gradients_that_nothing_clears_are_seen_with_their_share(optimizer_class):
    def kept(model, optimizer, loss_of):
        loss_of().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    found = loop(kept, optimizer_class=optimizer_class)

    assert [(step, kind) for step, kind, _ in found] == [(2, "still"), (3, "still")]
    assert all(0.01 < share < 1 for *_, share in found)


def test_half_precision_tells_gradients_that_stay_too():
    def kept(model, optimizer, loss_of):
        loss_of().backward()
        optimizer.step()

    assert loop(kept, dtype=torch.bfloat16)[0][:2] == (2, "still")


def test_second_step_of_one_backward_pass_is_seen():
    def twice(model, optimizer, loss_of):
        loss_of().backward()
        optimizer.step()
        optimizer.step()
        optimizer.zero_grad()

    assert loop(twice, steps=2) == [(2, "again", 1.0), (4, "again", 1.0)]


def test_watch_leaves_no_hook_behind():
    parameter = torch.nn.Parameter(torch.ones(4))
    with observe_optimizers():
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        parameter.square().sum().backward()
        optimizer.step()
        assert parameter._backward_hooks

    assert not parameter._backward_hooks
