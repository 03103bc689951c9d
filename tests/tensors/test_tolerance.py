from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.tensors import bitwise, close, cosine, default_tolerance, psnr, ulp
from pytest_genmodel.tensors.tolerance import Tolerance

from .strategies import quick

positive = st.floats(0, 1e6)
tolerances = st.one_of(
    st.just(bitwise),
    st.integers(0, 10**6).map(ulp),
    st.builds(close, positive, positive),
    st.just(close()),
    st.builds(psnr, st.floats(-100, 200), st.floats(1e-3, 1e4)),
    st.floats(-1, 1).map(cosine),
)


@pytest.mark.parametrize(
    ("tolerance", "text"),
    [
        (bitwise, "bitwise"),
        (ulp(2), "ulp(2)"),
        (close(1.3e-6, 1e-5), "close(rtol=1.3e-06, atol=1e-05)"),
        (close(), "close(defaults of the dtype)"),
        (psnr(25), "psnr >= 25 dB"),
        (psnr(30, peak=255), "psnr >= 30 dB (peak 255)"),
        (cosine(0.999), "cosine >= 0.999"),
    ],
)
def test_text(tolerance, text):
    assert str(tolerance) == text


@quick
@given(tolerances)
def test_json_round_trip_and_hash(tolerance):
    again = Tolerance.from_json(json.loads(json.dumps(tolerance.to_json())))
    assert again == tolerance
    assert hash(again) == hash(tolerance)


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [
        ("bitwise", bitwise),
        (" ulp:2 ", ulp(2)),
        ("close", close()),
        ("close:1e-3,1e-5", close(1e-3, 1e-5)),
        ("close: atol = 1e-3", close(atol=1e-3)),
        ("psnr:25", psnr(25)),
        ("psnr:25,255", psnr(25, 255)),
        ("psnr:25,peak=255", psnr(25, 255)),
        ("cosine:0.999", cosine(0.999)),
    ],
)
def test_parse(text, tolerance):
    assert Tolerance.parse(text) == tolerance


@pytest.mark.parametrize(
    "text",
    [
        "",
        "exact",
        "ulp",
        "ulp:1.5",
        "ulp:x",
        "close:1,2,3",
        "close:gtol=1",
        "psnr",
        "psnr:",
        "cosine:2",
        "bitwise:1",
    ],
)
def test_parse_refuses(text):
    with pytest.raises(BadInputError):
        Tolerance.parse(text)


def test_refusal_names_what_is_accepted():
    with pytest.raises(BadInputError, match=r"'exact'.*bitwise, ulp:N, close"):
        Tolerance.parse("exact")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ulp(-1),
        lambda: ulp(True),
        lambda: ulp(1.0),
        lambda: close(rtol=-1),
        lambda: close(atol=math.nan),
        lambda: close(rtol=math.inf),
        lambda: close(rtol="1"),
        lambda: psnr(math.inf),
        lambda: psnr(25, peak=0),
        lambda: cosine(1.1),
        lambda: cosine(None),
        lambda: Tolerance.from_json({"kind": "near"}),
        lambda: Tolerance.from_json("bitwise"),
        lambda: Tolerance.from_json({"kind": ["ulp"], "n": 1}),
        lambda: Tolerance.from_json({"kind": "psnr", "db": 10**400}),
        lambda: Tolerance.from_json({"kind": "ulp", "m": 1}),
    ],
)
def test_wrong_arguments(make):
    with pytest.raises(BadInputError):
        make()


def test_one_figure_leaves_the_other_zero():
    assert close(atol=1e-3) == close(0.0, 1e-3)
    assert close(rtol=1e-3) == close(1e-3, 0.0)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]
)
def test_defaults_are_those_of_torch_testing_on_a_cpu(dtype):
    rtol, atol = torch.testing._comparison.default_tolerances(dtype)
    assert default_tolerance(dtype) == close(rtol, atol)
    assert default_tolerance(str(dtype)) == close(rtol, atol)


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_exact_defaults(dtype):
    assert default_tolerance(dtype) is bitwise


def test_an_accelerator_gets_more_room_in_float32():
    assert default_tolerance(torch.float32, "cuda") == close(1.3e-6, 1e-4)
    assert default_tolerance(torch.bfloat16, "cuda") == default_tolerance(torch.bfloat16)


def test_the_cpu_limit_lies_between_noise_and_the_smallest_fault():
    assert 3.3e-6 < default_tolerance(torch.float32).atol < 1.6e-5
