"""Every optimizer of docs/optimizers.md, measured at rate 0 and at 1e-46, and what is said of it."""

from __future__ import annotations

import traceback

import pytest
import torch

from pytest_genmodel.training.habits import (
    HABITS,
    REFUSES_ZERO,
    SMALLEST_RATE,
    counts_as_zero,
    habit_of,
    refused_zero,
)
from pytest_genmodel.training.observer import Observed, observe_optimizers
from tests.training.recorded import all_finite, optimizer_class, same_bits, take_steps
from tools import optimizers_page
from tools.optimizer_table import NOT_IN_DEV, ROWS, Effect, Row

RATES = (0.0, SMALLEST_RATE)


def row_id(row: Row) -> str:
    return f"{row.name.partition('.')[0]}.{row.call}-{row.dtype}"


def measured(recorded, row: Row, lr: float) -> tuple[Effect, Observed]:
    """What the optimizer of a row does, and what was seen of it."""
    if row.package in NOT_IN_DEV:
        pytest.importorskip(row.name.partition(".")[0], reason=f"{row.package} is not part of the dev extra")
    made = False
    with observe_optimizers() as observed:
        try:
            parameters, _ = recorded.parameters(takes=row.takes, dtype=row.dtype)
            optimizer_class(row.name)(parameters, **{"lr": lr, **row.options})
            made = True
            pairs = take_steps(recorded, row.name, row.options, lr=lr, takes=row.takes, dtype=row.dtype)
        except (ValueError, AssertionError, RuntimeError, ZeroDivisionError):
            return (Effect.FAILS if made else Effect.REFUSES), observed
    if same_bits(pairs):
        return Effect.IDENTITY, observed
    return (Effect.MOVES if all_finite(pairs) else Effect.NAN), observed


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_row_is_what_is_measured(recorded, row):
    effects = [measured(recorded, row, lr)[0] for lr in (RATES if row.at_smallest is not None else RATES[:1])]

    assert effects == [row.at_zero, row.at_smallest][: len(effects)]


@pytest.mark.parametrize("row", [row for row in ROWS if row.at_zero is Effect.IDENTITY], ids=row_id)
def test_optimizer_that_is_still_at_zero_moves_at_a_positive_rate(recorded, row):
    """Control: it was given gradients that it can use. RAdamScheduleFree is still while its variance settles."""
    effect, _ = measured(recorded, row, 1e-3)

    still = row.name == "schedulefree.RAdamScheduleFree"
    assert effect is (Effect.IDENTITY if still else Effect.MOVES)


@pytest.mark.parametrize("row", [row for row in ROWS if "step_sizes" not in row.options], ids=row_id)
def test_habit_is_named_where_weights_move_and_only_there(recorded, row):
    for lr in RATES:
        effect, observed = measured(recorded, row, lr)
        if effect in (Effect.MOVES, Effect.NAN):
            assert observed.moved_inside
            assert counts_as_zero(observed.largest_rate)
            assert habit_of(observed) is not None
        elif effect is Effect.IDENTITY:
            assert (observed.moved, habit_of(observed)) == (0, None)


@pytest.mark.parametrize(
    ("name", "habit"), [(name, habit) for name, habits in HABITS.items() for habit in habits]
)
def test_every_habit_moves_weights_at_zero_under_the_watch(recorded, name, habit):
    by_text = {"eps=0": ({"eps": 0.0}, "float32"), "float16": ({}, "float16")}
    named = {
        "Adafactor": {"lr": None},
        "Lion": {"lr": SMALLEST_RATE, "weight_decay": 0.01, "decoupled_weight_decay": True},
    }
    options, dtype = next(
        (made for words, made in by_text.items() if words in habit.text),
        (named.get(name.rpartition(".")[2], {}), "float32"),
    )
    with observe_optimizers() as observed:
        take_steps(recorded, name, options, lr=0.0, dtype=dtype)

    assert observed.optimizers == [name]
    assert observed.moved_inside
    assert habit_of(observed) == habit.text


@pytest.mark.parametrize("name", [*REFUSES_ZERO, "transformers.optimization.Adafactor"])
def test_refusal_is_recognised_in_the_traceback(name):
    if name.startswith("came_pytorch"):
        pytest.importorskip("came_pytorch", reason="came-pytorch is not part of the dev extra")
    with pytest.raises((ValueError, AssertionError)) as caught:
        optimizer_class(name)([torch.nn.Parameter(torch.ones(2, 2))], lr=0.0)
    lines = "".join(traceback.format_exception(caught.value)).splitlines()

    said = refused_zero(lines)

    assert said is not None
    if name in REFUSES_ZERO:
        assert any(REFUSES_ZERO[name] in line for line in lines)
        assert "1e-46" in said
    else:
        assert "relative_step=False" in said


@pytest.mark.parametrize(
    "line",
    [
        "train.py: error: argument --learning_rate: must be positive",
        "train.py: error: argument --lr: invalid positive_float value: '0.0'",
        "ValueError: learning rate must be greater than 0, got 0.0",
        "ValueError: `learning_rate` should be > 0",
        "AssertionError: lr cannot be zero",
        "    assert args.learning_rate > 0",
        "ValueError: expected a positive learning rate",
        "omegaconf.errors.ValidationError: base_lr must be strictly positive",
    ],
)
def test_refusal_of_an_argument_checker_is_recognised(line):
    said = refused_zero(["loading the model", line])

    assert said is not None
    assert "1e-46" in said


def test_refusal_over_two_lines_is_recognised():
    lines = ["learning_rate", "  Input should be greater than 0 [type=greater_than, input_value=0.0]"]

    assert refused_zero(lines) is not None


@pytest.mark.parametrize(
    "line",
    [
        "step 1/2 lr=0.0 loss=1.389",
        "learning_rate=0.0, positive prompts: 4",
        "RuntimeError: CUDA out of memory",
        "ValueError: Invalid learning rate: -1.0",
        "ValueError: Invalid learning rate: 0.0001x",
        "AssertionError: batch size must be greater than 0",
        "ValueError: num_frames must be positive",
    ],
)
def test_other_lines_are_no_refusal(line):
    assert refused_zero(["epoch 0", line, "Traceback (most recent call last):"]) is None


def test_optimizer_that_cannot_do_with_the_smallest_rate_says_so(recorded):
    with pytest.raises(ZeroDivisionError) as caught:
        take_steps(recorded, "dadaptation.DAdaptSGD", {}, lr=SMALLEST_RATE)

    said = refused_zero("".join(traceback.format_exception(caught.value)).splitlines())

    assert said is not None
    assert "another optimizer" in said


def test_rates_that_are_zero_in_float32_count_as_zero():
    assert [counts_as_zero(rate) for rate in (0.0, -0.0, 1e-46, 1e-45, 1e-9)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert torch.tensor(1e-46, dtype=torch.float32).item() == 0.0
    assert torch.tensor(1e-45, dtype=torch.float32).item() != 0.0


def test_page_of_optimizers_is_up_to_date():
    assert optimizers_page.PAGE.read_text() == optimizers_page.page(), "run: python -m tools.optimizers_page"
