"""Fingerprints: equal bits, about how far, and what they cost in memory."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.tensors.fingerprint import BUCKETS, fingerprint

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64]
SHAPES = [(1,), (3,), (2, 33), (7, 64, 65), (70_001,)]


def normal(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_bits_have_one_fingerprint_whatever_their_layout(shape, dtype):
    tensor = normal(shape, dtype)
    turned = tensor.movedim(0, -1).contiguous().movedim(-1, 0)

    assert fingerprint(tensor).equals(fingerprint(tensor.clone()))
    assert fingerprint(tensor).equals(fingerprint(turned))
    assert fingerprint(tensor).distance(fingerprint(turned)) == 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("place", [0, -1])
def test_one_element_makes_another_fingerprint(shape, place):
    tensor, other = normal(shape), normal(shape)
    other.view(-1)[place] = torch.nextafter(other.view(-1)[place], torch.tensor(9.0))

    assert not fingerprint(tensor).equals(fingerprint(other))
    assert fingerprint(other).is_close(fingerprint(tensor))


def test_order_and_sign_count():
    tensor = normal((1 << 18,))
    swapped, flipped = tensor.clone(), tensor.clone()
    swapped[[5, 200_005]] = tensor[[200_005, 5]]
    flipped[[1, 3]] *= -1  # upper halves of 64-bit words

    assert not fingerprint(swapped).equals(fingerprint(tensor))
    assert not fingerprint(flipped).equals(fingerprint(tensor))
    assert not fingerprint(tensor.roll(1 << 16)).equals(fingerprint(tensor))


@pytest.mark.parametrize("shape", [(40, 50), (70_001,), (3, 40, 40)], ids=str)
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_sketch_tells_the_distance_within_a_factor(shape, size):
    tensor = normal(shape)
    other = tensor + size * normal(shape, seed=1)
    wanted = float((other - tensor).norm() / tensor.norm())

    assert fingerprint(other).distance(fingerprint(tensor)) == pytest.approx(wanted, rel=0.6)
    assert not fingerprint(other).is_close(fingerprint(tensor))


def test_one_large_difference_is_not_lost_among_many_values():
    tensor = normal((1 << 19,))
    other = tensor.clone()
    other[777] += 5

    assert not fingerprint(other).is_close(fingerprint(tensor))


def test_rounding_counts_as_close_and_not_a_number_never():
    tensor = normal((60, 60))
    bad = tensor.clone()
    bad[0, 0] = torch.nan

    assert fingerprint(tensor * (1 + 1e-6)).is_close(fingerprint(tensor))
    assert not fingerprint(bad).is_close(fingerprint(tensor))
    assert fingerprint(bad).equals(fingerprint(bad.clone()))


def test_other_dtypes_and_shapes_are_apart():
    tensor = normal((4, 8))
    whole = torch.arange(32).view(4, 8)

    assert not fingerprint(tensor.view(8, 4)).is_close(fingerprint(tensor))
    assert not fingerprint(tensor.double()).is_close(fingerprint(tensor))
    assert not fingerprint(whole + 1).is_close(fingerprint(whole))
    assert fingerprint(whole).equals(fingerprint(whole.clone()))


def test_odd_tensors_have_fingerprints_too():
    expanded = torch.ones(1).expand(1)
    for tensor in (torch.empty(0), torch.empty(3, device="meta"), torch.eye(3).to_sparse(), expanded):
        assert fingerprint(tensor).equals(fingerprint(tensor))


def test_lazy_conjugates_and_packed_values_have_fingerprints_too():
    values = torch.complex(torch.arange(9.0), torch.arange(9.0))
    assert fingerprint(values.conj()).equals(fingerprint(values.conj().resolve_conj()))
    assert not fingerprint(values.conj()).equals(fingerprint(values))
    packed = torch.arange(40, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert fingerprint(packed).sketch == b""
    assert fingerprint(packed).equals(fingerprint(packed.clone()))


def test_fingerprint_is_small_whatever_the_tensor():
    found = fingerprint(normal((1 << 20,)))

    assert len(found.sketch) == 4 * BUCKETS
    assert len(found.digest) == 8
