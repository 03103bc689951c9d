from __future__ import annotations

import numpy
import pytest
import torch
from PIL import Image

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.tensors import bitwise, close, compare
from pytest_genmodel.tensors.inputs import as_tensor, is_plain


def test_arrays_share_memory():
    array = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)
    assert as_tensor(array, "x").data_ptr() == array.ctypes.data


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6)[::-1],
        numpy.arange(6, dtype=">f4"),
        numpy.arange(12).reshape(3, 4).T,
        numpy.float64(3.0),
        numpy.array(3, dtype=numpy.uint16),
        numpy.broadcast_to(numpy.arange(3), (2, 3)),
    ],
    ids=["reversed", "big-endian", "transposed", "scalar", "zero-dim", "read-only"],
)
def test_awkward_arrays(array):
    assert compare(array, torch.tensor(array.tolist()), bitwise, check_dtype=False).passed


def test_bfloat16_arrays():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = numpy.arange(4).astype(ml_dtypes.bfloat16)
    assert compare(array, torch.arange(4).to(torch.bfloat16), bitwise).passed


def test_images():
    pixels = (numpy.random.default_rng(0).random((4, 6, 3)) * 255).astype(numpy.uint8)
    image = Image.fromarray(pixels)
    assert compare(image, torch.from_numpy(pixels), bitwise).passed
    assert as_tensor(image, "x").shape == (4, 6, 3)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.complex64]
)
def test_plain_values_take_the_dtype_of_the_other_side(dtype):
    assert compare([[1, 2], [3, 4]], torch.tensor([[1, 2], [3, 4]], dtype=dtype), bitwise).passed
    assert compare(torch.tensor(3, dtype=dtype), 3, bitwise).passed


def test_a_float_is_read_as_the_dtype_rounds_it():
    assert compare(torch.tensor(0.1), 0.1, bitwise).passed
    assert compare(0.1, torch.tensor(0.1, dtype=torch.float64), bitwise).passed


def test_a_cast_that_loses_the_value_is_not_made():
    assert not compare(0.5, torch.tensor(0)).passed
    assert not compare(300, torch.tensor(44, dtype=torch.uint8)).passed


def test_numbers_against_numbers():
    assert compare(1.0, 1.0).passed
    assert compare(1.0, 1.0 + 1e-9).passed
    assert not compare(1, 2).passed
    assert compare(1 + 2j, 1 + 2j).passed
    assert compare([], []).passed


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("text", "cannot compare a str"),
        (object(), "cannot compare a object"),
        (None, "NoneType"),
        ([[1, 2], [3]], "rectangular"),
        (numpy.array(["a"]), "dtype"),
        (numpy.array([object()]), "dtype"),
        (torch.eye(3).to_sparse(), r"\.to_dense\(\)"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "not dense"),
    ],
    ids=["text", "object", "none", "ragged", "string-array", "object-array", "sparse", "nested"],
)
def test_what_cannot_be_compared(value, words):
    with pytest.raises(BadInputError, match=rf"^actual: .*{words}"):
        compare(value, torch.ones(3))
    with pytest.raises(BadInputError, match=rf"^expected: .*{words}"):
        compare(torch.ones(3), value)


@pytest.mark.filterwarnings("ignore")
def test_quantized():
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    with pytest.raises(BadInputError, match=r"quantized.*\.dequantize\(\)"):
        compare(quantized, torch.ones(3))


def test_lazy_conjugates_and_negatives_are_resolved():
    tensor = torch.tensor([1 + 2j, 3 - 1j])
    assert compare(tensor.conj(), torch.tensor([1 - 2j, 3 + 1j]), bitwise).passed
    assert compare(tensor.conj().imag, torch.tensor([-2.0, 1.0]), bitwise).passed


def test_gradients_and_parameters():
    parameter = torch.nn.Parameter(torch.randn(3))
    assert compare(parameter, parameter.detach().clone(), bitwise).passed
    assert not compare(parameter, parameter + 1, close(atol=0.5)).passed


def test_plain():
    assert is_plain([1, [2.0, (3j, True)]])
    assert not is_plain([1, torch.ones(1)])
    assert not is_plain(numpy.float32(1))
