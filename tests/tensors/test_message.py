from __future__ import annotations

import torch

from pytest_genmodel.tensors import bitwise, close, compare, cosine, describe, psnr, ulp
from pytest_genmodel.tensors.message import brief, distinct, number, place

NAMES = ("frame", "channel", "height", "width")


def lines_of(comparison, *labels) -> dict[str, str]:
    """The facts by title, wrapped lines joined."""
    text = describe(comparison, *labels)
    assert text.isascii()
    assert len(text.splitlines()) <= 20
    assert max(map(len, text.splitlines())) <= 120
    facts, title = {}, ""
    for line in text.splitlines()[1:]:
        if line[2] != " ":
            title, line = line[2:].split("  ", 1)
            facts[title] = ""
        facts[title] = f"{facts[title]} {line.strip()}".strip()
    return facts


def test_a_lost_part_of_a_video():
    expected = torch.rand(9, 3, 16, 16) + 0.5
    actual = expected.clone()
    actual[5:] = 0
    actual[7, 1, 2, 3], expected[7, 1, 2, 3] = 0.0, 2.0
    comparison = compare(actual, expected, names=NAMES)
    text = str(comparison)
    assert text.startswith(
        "actual and expected differ: 3072 of 6912 elements (44.4%) are beyond close(rtol=1.3e-06, atol=1e-05)"
    )
    facts = lines_of(comparison)
    assert facts["tensors"] == "(9, 3, 16, 16) float32, cpu"
    assert facts["worst"].startswith(
        "at [frame 7, channel 1, height 2, width 3]: actual 0, expected 2; 2 apart"
    )
    assert "times the limit of 1.26e-05" in facts["worst"]
    assert "max abs 2" in facts["overall"]
    assert "norm changed by" in facts["overall"]
    assert facts["frame"] == "5..8 differ; 0..4 equal; largest at 7"
    assert "channel" not in facts
    assert "zero" in facts["looks like"]
    assert "missing key" in facts["hint"]
    assert facts["would pass"] == "close(rtol=1.3e-06, atol=2)"


def test_what_would_pass_is_rounded_up_and_does_pass():
    expected = torch.randn(1000)
    actual = expected + 1e-3 * torch.randn(1000)
    facts = lines_of(compare(actual, expected))
    enough = eval(facts["would pass"].split(" or ")[0], {"close": close})
    assert compare(actual, expected, enough).passed
    assert len(f"{enough.atol:g}") <= 8


def test_labels():
    comparison = compare(torch.zeros(4), torch.tensor([1.0, 2, 3, 4]))
    text = describe(comparison, ("candidate", "reference"), where="transformer.to_q")
    assert text.startswith("transformer.to_q: candidate and reference differ")
    assert "candidate is zero in all 4 elements" in text
    assert "actual" not in text
    assert "expected" not in text


def test_structure():
    assert "shapes differ: actual (2, 3), expected (3, 2)" in str(compare(torch.ones(2, 3), torch.ones(3, 2)))
    half = torch.randn(20).half()
    facts = lines_of(compare(half, half.float()))
    assert facts["values"] == "equal"
    assert facts["tensors"] == "(20,) float16 and float32, cpu"
    rounded = compare(half.float().bfloat16(), half.float())
    assert "dtypes differ: actual bfloat16, expected float32" in str(rounded)
    assert lines_of(rounded)["values"] == "within close(rtol=0.016, atol=1e-05)"
    assert "20 elements beyond bitwise" in lines_of(compare(half + 1, half.float(), bitwise))["values"]
    assert "meta device" in str(compare(torch.empty(2, device="meta"), torch.ones(2)))


def test_nan():
    actual = torch.ones(3, 4)
    actual[1, 2] = torch.nan
    comparison = compare(actual, torch.ones(3, 4), names=("row", "column"))
    assert str(comparison).startswith(
        "actual and expected differ: NaN or Inf does not match: 1 of 12 elements (8.33%) are wrong"
    )
    facts = lines_of(comparison)
    assert facts["NaN, Inf"] == "actual 1 NaN (first at [row 1, column 2]); expected none"
    assert facts["would pass"] == "no tolerance would pass this"


def test_the_other_tolerances():
    frames = torch.rand(3, 8, 8)
    dark = frames * 0.5
    assert "is below 40 dB (peak 1)" in str(compare(dark, frames, psnr(40)))
    assert "is below 0.9" in str(compare(-frames, frames, cosine(0.9)))
    bits = frames.view(torch.int32) + 3
    off = compare(bits.view(torch.float32), frames, ulp(2))
    assert "all 192 elements are beyond ulp(2)" in str(off)
    assert lines_of(off)["would pass"] == "ulp(3)"
    assert "max 3 ULP" in lines_of(off)["overall"]
    assert "differ in their bits" in str(compare(frames, dark, bitwise))
    byte = (frames * 255).to(torch.uint8)
    assert lines_of(compare(byte // 2, byte, psnr(30)))["note"].endswith(
        "psnr(30, peak=255) is probably meant"
    )


def test_only_the_sign_of_zero():
    facts = lines_of(compare(torch.tensor([0.0, 1, 2, 3]), torch.tensor([-0.0, 1, 2, 3]), bitwise))
    assert facts["worst"] == "at [0]: actual 0, expected -0"
    assert "sign of a zero" in facts["note"]


def test_an_error_that_grows_over_the_frames():
    expected = torch.rand(6, 50)
    actual = expected + torch.linspace(0.01, 1, 6)[:, None] * (0.5 + torch.rand(6, 50))
    facts = lines_of(compare(actual, expected, names=("frame", "pixel")))
    assert facts["frame"].startswith("all 6 differ: max abs ")
    assert "at 5" in facts["frame"]
    assert "at 0" in facts["frame"]


def test_scattered_places_stay_short():
    expected = torch.rand(100, 40)
    actual = expected.clone()
    actual[::3] += 1
    assert "more differ" in lines_of(compare(actual, expected))["axis 0"]


def test_brief():
    expected = torch.randn(50)
    assert brief(compare(expected * 2, expected)).endswith("scaled")
    assert "elements" in brief(compare(expected * 2, expected))
    assert brief(compare(expected[:3], expected)).startswith("shapes differ")


def test_figures():
    assert number(277123.0) == "277000"
    assert number(0.00012345) == "0.000123"
    assert number(2.5e9) == "2.5e+09"
    assert distinct(0.123456, 0.123461) == ("0.123456", "0.123461")
    assert distinct(1.0, 1.0 + 2**-40)[0] != distinct(1.0, 1.0 + 2**-40)[1]
    assert place(()) == "the only element"
    assert place((1, 2)) == "[1, 2]"
