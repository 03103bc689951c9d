from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.tensors import bitwise, combine, compare, digest

from .strategies import quick, tensors


@quick
@given(tensors(), tensors())
def test_equal_digests_mean_bitwise_equal(first, second):
    assert digest(first) == digest(first.clone())
    same = first.shape == second.shape and compare(first, second, bitwise).passed
    assert (digest(first) == digest(second)) == same


def test_the_recipe_does_not_change():
    """Digests live in baseline files: a new recipe would make all of them stale."""
    tensor = torch.arange(6, dtype=torch.float32).view(2, 3)
    recipe = hashlib.sha256(b"float32 (2, 3)\n" + tensor.numpy().tobytes()).hexdigest()
    assert digest(tensor) == recipe


def test_layout_does_not_matter():
    tensor = torch.randn(300, 1000)
    turned = tensor.t().contiguous().t()
    assert not turned.is_contiguous()
    assert digest(turned) == digest(tensor)
    assert digest(torch.ones(1).expand(5)) == digest(torch.ones(5))
    assert digest(tensor.requires_grad_()) == digest(tensor.detach())


def test_blocks_do_not_matter():
    tensor = torch.randn(2**19 + 17)
    assert (
        digest(tensor)
        == hashlib.sha256(f"float32 ({2**19 + 17},)\n".encode() + tensor.numpy().tobytes()).hexdigest()
    )


def test_dtype_and_shape_and_sign_of_zero_matter():
    zeros = torch.zeros(4)
    different = [
        zeros,
        zeros.view(2, 2),
        zeros.view(torch.int32),
        -zeros,
        zeros[:0],
        torch.tensor(0.0),
        torch.zeros(0, 4),
    ]
    assert len({digest(tensor) for tensor in different}) == len(different)


def test_meta_has_no_digest():
    with pytest.raises(BadInputError, match="meta"):
        digest(torch.empty(3, device="meta"))


@quick
@given(st.dictionaries(st.text(), st.text(), max_size=5), st.randoms())
def test_combine_ignores_order(items, random):
    pairs = list(items.items())
    shuffled = random.sample(pairs, len(pairs))
    assert combine(pairs) == combine(iter(shuffled))


def test_combine_tells_names_from_digests():
    assert combine([("a", "bc")]) != combine([("ab", "c")])
    assert combine([("a", "1"), ("b", "2")]) != combine([("a", "2"), ("b", "1")])


def test_one_element_of_an_expanded_tensor_has_a_digest():
    assert digest(torch.tensor(5.0).expand(1)) == digest(torch.tensor([5.0]))
