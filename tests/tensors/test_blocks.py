from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_genmodel.tensors import blocks as module
from pytest_genmodel.tensors.blocks import blocks, pairs, same_bits

from .strategies import quick, shapes, tensors


@quick
@given(shapes(least=1, most=7), st.integers(1, 50))
def test_blocks_cover_a_tensor_once_and_in_order(shape, limit):
    tensor = torch.arange(math.prod(shape)).view(shape)
    parts = []
    for block in blocks(shape, limit):
        part = block.of(tensor)
        assert part.shape == block.shape
        assert part.numel() <= limit
        assert int(part.view(-1)[0]) == block.offset
        parts.append(part.reshape(-1))
    assert torch.equal(torch.cat(parts), tensor.view(-1))


@quick
@given(tensors(shape=shapes(least=1)), st.integers(1, 20))
def test_pairs_are_in_step(tensor, limit):
    backwards = tuple(reversed(range(tensor.dim())))
    turned = tensor.permute(backwards).contiguous().permute(backwards)
    for first, second in pairs(tensor, turned, limit):
        assert same_bits(first, second)


@quick
@given(tensors())
def test_same_bits_sees_one_bit(tensor):
    other = tensor.clone()
    assert same_bits(tensor, tensor)
    assert same_bits(tensor, other)
    if tensor.numel():
        raw = other.view(-1).view(torch.uint8)
        raw[-1] ^= 1
        assert not same_bits(tensor, other)


@pytest.mark.parametrize(
    "tensor", [torch.randn(600, 500).t(), torch.randn(1, 4).expand(700, 4), torch.randn(3, 900, 300)[:, ::2]]
)
def test_same_bits_without_contiguity(tensor):
    assert same_bits(tensor, tensor.contiguous())
    other = tensor.contiguous()
    other[-1, -1] += 1
    assert not same_bits(tensor, other)


def test_without_memcmp(monkeypatch):
    monkeypatch.setattr(module, "MEMCMP", None)
    tensor = torch.randn(10, dtype=torch.bfloat16)
    assert same_bits(tensor, tensor.clone())
    assert not same_bits(tensor, -tensor)
