from __future__ import annotations

import re

import pytest
import torch

from pytest_genmodel.tensors import compare

tensor = torch.arange(24.0).view(2, 3, 4)


@pytest.mark.parametrize(
    ("actual", "expected", "words"),
    [
        (tensor[None], tensor, "axes of size 1"),
        (tensor.view(6, 4), tensor, r"equal after \.reshape\(2, 3, 4\)"),
        (tensor[0].t(), tensor[0], r"transpose: actual\.T is expected"),
        (tensor.permute(2, 0, 1), tensor, r"actual\.permute\(1, 2, 0\) is expected"),
        (tensor.permute(2, 0, 1)[None], tensor, r"permute\(1, 2, 0\)"),
        (tensor[:, :2], tensor, "actual is the first 2 of 3 along row"),
        (tensor, tensor[:, :, 1:], "expected is the last 3 of 4 along column"),
        (torch.ones(3), torch.ones(5, 3), r"actual is broadcast to \(5, 3\)"),
        (torch.ones(2, 3), torch.ones(1, 1), r"expected is broadcast to \(2, 3\)"),
        (torch.randn(2, 3), torch.randn(3, 2), r"differ along .* \(2 against 3\)"),
        (torch.randn(2, 3), torch.randn(5), "2 axes against 1"),
        (torch.ones(0, 3), torch.ones(3), "2 axes against 1"),
        (torch.empty(4, device="meta"), torch.ones(3), r"\(4 against 3\)"),
    ],
)
def test_how_two_shapes_relate(actual, expected, words):
    names = ("batch", "row", "column") if actual.dim() == 3 else None
    comparison = compare(actual, expected, names=names)
    assert comparison.problem == "shape"
    assert re.search(words, comparison.note), comparison.note


def test_a_claim_about_values_is_checked():
    changed = tensor.permute(2, 0, 1).clone()
    changed[-1, -1, -1] += 1
    assert "transpose" not in compare(changed, tensor).note
    assert "first" not in compare(changed.permute(1, 2, 0)[:, :, 1:], tensor).note
