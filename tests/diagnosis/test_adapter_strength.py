"""How strongly an adapter acts: estimated from what was merged, and said in words."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.checkpoints.products import Product
from pytest_genmodel.diagnosis.adapter_strength import Strength, strength, strength_findings, times

GENERATOR = torch.Generator().manual_seed(0)
UP, DOWN = (torch.randn(*shape, generator=GENERATOR, dtype=torch.float64) for shape in ((32, 4), (4, 32)))
PRODUCT = Product(UP, DOWN, 3.0)


@pytest.mark.parametrize(
    ("added", "fault", "acts"),
    [
        (3 * UP @ DOWN, "", 3.0),
        (UP @ DOWN, "strength", 1.0),
        (0 * UP @ DOWN, "ignored", 0.0),
        (3 * (UP @ DOWN).T, "transposed", 3.0),
        (3 * (UP @ DOWN).roll(1, 0), "other", None),
        (3 * UP[:, :2] @ DOWN[:2], "other", None),
        (torch.zeros(16, 32, dtype=torch.float64), "other", 0.0),
    ],
)
def test_what_was_added_is_told(added, fault, acts):
    found = strength("layer", PRODUCT, added, 1e-6)

    assert found.fault == fault
    if acts is not None:
        assert found.acts == pytest.approx(acts)


def test_rounding_is_no_fault_and_hides_what_is_smaller():
    weight = torch.randn(32, 32, generator=GENERATOR).bfloat16()
    merged = (weight.float() + (3 * UP @ DOWN).float() * 0.02).bfloat16()
    product = Product(UP * 0.02, DOWN, 3.0)
    rounding = 2**-7 * float(merged.double().norm()) * 1.5

    assert strength("layer", product, merged.double() - weight.double(), rounding).fault == ""
    assert strength("layer", product, merged.double() - weight.double(), 100.0) is None
    assert strength("layer", Product(UP * 0, DOWN, 3.0), merged.double(), 0.0) is None


@pytest.mark.parametrize(
    ("acts", "said"),
    [
        (1.0, "alpha 12 / r 4 was lost"),
        (6.0, "added twice"),
        (9.0, "applied twice"),
        (12.0, "not divided by the rank"),
        (0.25, "1/rank"),
        (0.75, "once more"),
        (-3.0, "subtracted"),
        (2.0, "the rank of another layer (8)"),
        (1.7, "a scale of the loader's own"),
    ],
)
def test_cause_of_a_wrong_strength_is_said(acts, said):
    layers = [Strength("a", 4, 3.0, acts, "strength"), Strength("b", 8, 3.0, 3.0)]

    [finding] = strength_findings(layers, "transformer", "merged")

    assert (finding.code, finding.location) == ("GM826", "a")
    assert said in finding.cause


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(0.25, "1/4 of"), (1 / 128, "1/128 of"), (2.0, "twice"), (16.0, "16 times"), (0.3, "0.3 times")],
)
def test_ratios_in_words(ratio, words):
    assert times(ratio) == words
