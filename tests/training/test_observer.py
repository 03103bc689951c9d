"""What the watcher of optimizers says of a step: rates, gradients, moments, movement."""

from __future__ import annotations

import json

import pytest
import torch

from pytest_genmodel.training.observer import Observed, observe_optimizers


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


@pytest.mark.parametrize("as_keyword", [True, False])
@pytest.mark.parametrize("optimizer_class", [torch.optim.LBFGS, torch.optim.AdamW])
def test_gradients_that_a_closure_makes_are_seen(optimizer_class, as_keyword):
    parameter = torch.nn.Parameter(torch.ones(3))
    calls = []

    def closure(value: float = 1.0):
        optimizer.zero_grad()
        loss = (parameter * value).sum()
        loss.backward()
        calls.append(1)
        return loss

    with observe_optimizers() as observed:
        optimizer = optimizer_class([parameter], lr=0.0)
        for _ in range(2):
            loss = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)

    assert (observed.steps, observed.with_gradient, observed.finite_gradients) == (2, [True] * 2, [True] * 2)
    assert observed.learned
    assert float(loss.detach()) == 3.0
    assert len(calls) >= 2


def test_closure_whose_first_gradients_are_no_numbers_is_seen():
    """LBFGS asks again and again; the last answer need not be the bad one."""
    parameter = torch.nn.Parameter(torch.ones(3))
    answers = iter([float("nan"), *([1.0] * 50)])

    def closure():
        parameter.grad = torch.full((3,), next(answers))
        return parameter.sum().detach()

    with observe_optimizers() as observed:
        torch.optim.LBFGS([parameter], lr=0.0).step(closure)

    assert (observed.with_gradient, observed.finite_gradients) == ([True], [False])


def test_closure_without_gradients_is_not_learned():
    parameter = torch.nn.Parameter(torch.ones(3))

    def closure():
        parameter.grad = torch.zeros(3)
        return parameter.sum().detach()

    with observe_optimizers() as observed:
        torch.optim.LBFGS([parameter], lr=0.1).step(closure)

    assert not observed.learned


def test_options_are_those_of_the_first_group_and_survive_json():
    observed = step(torch.optim.AdamW, 1.0, weight_decay=0.25, foreach=True)
    [(name, options)] = observed.options.items()

    assert name == "torch.optim.adamw.AdamW"
    assert (options["weight_decay"], options["foreach"], options["dtypes"]) == (0.25, True, ["float32"])
    assert Observed.from_json(json.loads(json.dumps(observed.to_json()))) == observed


def test_optimizer_that_keeps_no_rate_has_none():
    from transformers.optimization import Adafactor

    observed = step(Adafactor, 1.0, lr=None)

    assert (observed.rates, observed.largest_rate, observed.moved) == ([()], 0.0, 1)


def test_sparse_gradients_are_looked_at():
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    with observe_optimizers() as observed:
        parameter.grad = torch.tensor([[0.0, 0.0], [1.0, float("inf")], [0.0, 0.0]]).to_sparse(1)
        torch.optim.SparseAdam([parameter], lr=0.1).step()

    assert (observed.with_gradient, observed.finite_gradients) == ([True], [False])
