"""Kernels in closed form: torch's own are within rounding, and each kind of wrong result is seen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pytest_genmodel.tensors.closed_forms import FORMS, some

ROUNDING = 1e-12


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = torch.tensor([[True, True, False, True, False]])
CASES = {
    "linear": ("linear", (drawn(3, 5, 7), drawn(9, 7, seed=1), drawn(9, seed=2)), {}),
    "linear-no-bias": ("linear", (drawn(4, 7), drawn(9, 7, seed=1)), {}),
    "conv1d": ("conv1d", (drawn(2, 4, 9), drawn(6, 4, 3, seed=1), drawn(6, seed=2)), {"padding": 1}),
    "conv2d": ("conv2d", (drawn(2, 4, 9, 8), drawn(6, 2, 3, 2, seed=1)), {"stride": (2, 1), "groups": 2}),
    "conv3d": (
        "conv3d",
        (
            drawn(1, 4, 5, 6, 7),
            drawn(6, 4, 3, 3, 3, seed=1),
            drawn(6, seed=2),
            (1, 2, 1),
            (2, 1, 0),
            (1, 1, 2),
        ),
        {},
    ),
    "layer_norm": ("layer_norm", (drawn(3, 4, 8), (8,), drawn(8, seed=1), drawn(8, seed=2), 1e-3), {}),
    "rms_norm": ("rms_norm", (drawn(3, 4, 8), (8,), drawn(8, seed=1)), {"eps": 1e-3}),
    "group_norm": ("group_norm", (drawn(2, 8, 3, 4), 4, drawn(8, seed=1), drawn(8, seed=2)), {"eps": 1e-3}),
    "gelu": ("gelu", (drawn(5, 6),), {}),
    "gelu-tanh": ("gelu", (drawn(5, 6),), {"approximate": "tanh"}),
    "silu": ("silu", (drawn(5, 6),), {}),
    "attention": ("scaled_dot_product_attention", tuple(drawn(2, 3, 5, 4, seed=s) for s in range(3)), {}),
    "attention-causal": (
        "scaled_dot_product_attention",
        tuple(drawn(2, 3, 5, 4, seed=s) for s in range(3)),
        {"is_causal": True, "scale": 0.3},
    ),
    "attention-masked": (
        "scaled_dot_product_attention",
        tuple(drawn(2, 3, 5, 4, seed=s) for s in range(3)),
        {"attn_mask": MASK},
    ),
    "attention-biased": (
        "scaled_dot_product_attention",
        tuple(drawn(2, 3, 5, 4, seed=s) for s in range(3)),
        {"attn_mask": drawn(1, 3, 5, 5, seed=3)},
    ),
    "attention-shared-keys": (
        "scaled_dot_product_attention",
        (drawn(1, 4, 5, 4), drawn(1, 2, 5, 4, seed=1), drawn(1, 2, 5, 4, seed=2)),
        {"enable_gqa": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_torch_computes_what_the_formula_says(case):
    name, arguments, options = CASES[case]

    places = FORMS[name](*arguments, **options)
    output = getattr(F, name)(*arguments, **options)

    assert places is not None
    assert places.error(output) < ROUNDING


@pytest.mark.parametrize("case", CASES)
def test_wrong_result_is_seen(case):
    name, arguments, options = CASES[case]
    places = FORMS[name](*arguments, **options)
    output = getattr(F, name)(*arguments, **options)
    assert places is not None

    assert places.error(output * 1.01) > 1e-3
    assert places.error(output.flip(0) + 0.1) > 1e-3
    assert places.error(output * float("nan")) == float("inf")
    assert places.error(output.flatten()[:1]) == float("inf")


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        ({}, {"scale": 1.0}),
        ({"attn_mask": MASK}, {}),
        ({"is_causal": True}, {}),
        ({"scale": 0.25}, {}),
    ],
)
def test_attention_that_passes_over_an_argument_is_seen(given, computed):
    query, key, value = (drawn(2, 3, 5, 4, seed=seed) for seed in range(3))

    places = FORMS["scaled_dot_product_attention"](query, key, value, **given)

    assert places is not None
    assert places.error(F.scaled_dot_product_attention(query, key, value, **computed)) > 1e-2


def test_query_that_sees_nothing_is_left_out():
    query, key, value = (drawn(1, 1, 2, 4, seed=seed) for seed in range(3))
    mask = torch.tensor([[True, True], [False, False]])
    places = FORMS["scaled_dot_product_attention"](query, key, value, attn_mask=mask)
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    output[0, 0, 1] = float("nan")

    assert places is not None
    assert places.error(output) < ROUNDING


def test_rounding_grows_where_a_mean_is_taken_off():
    data = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) + 1000

    places = FORMS["layer_norm"](data, (64,))

    assert places is not None
    assert places.error(F.layer_norm(data, (64,))) < 1e-5 * places.amplified
    assert places.amplified > 100


def test_some_holds_both_ends():
    assert some(3, 8) == [0, 1, 2]
    assert (some(1000, 8)[0], some(1000, 8)[-1], len(some(1000, 8))) == (0, 999, 8)
