"""Byte comparison of stretches of files: right at every place, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_genmodel.checkpoints import same_bytes
from pytest_genmodel.checkpoints.same_bytes import Span, equal_spans


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bytes")


@pytest.fixture(params=["memcmp", "without memcmp", "without preadv"])
def way(request, monkeypatch):
    if request.param == "without memcmp":
        monkeypatch.setattr(same_bytes, "_MEMCMP", None)
    if request.param == "without preadv":
        monkeypatch.delattr(same_bytes.os, "preadv")
    return request.param


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("place", [0, 1, 99_999, 150_000, 299_999])
def test_one_other_byte_is_found_wherever_it_is(folder, monkeypatch, way, threads, place):
    monkeypatch.setattr(same_bytes, "BUFFER", 4096)
    monkeypatch.setattr(same_bytes, "TASK", 100_000)
    content = bytes(i * 31 % 251 for i in range(300_000))
    (folder / "a").write_bytes(b"head" + content + b"tail")
    (folder / "b").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    (folder / "c").write_bytes(content)
    a = Span(folder / "a", 4, 300_004)

    verdicts = equal_spans(
        [(a, Span(folder / "b", 0, 300_000)), (a, Span(folder / "c", 0, 300_000)), (a, a)], threads
    )

    assert verdicts == [False, True, True]


def test_other_sizes_are_never_equal_and_empty_spans_always(folder):
    (folder / "a").write_bytes(b"abc")
    span = Span(folder / "a", 0, 3)

    assert equal_spans(
        [(span, Span(folder / "a", 0, 2)), (Span(folder / "a", 1, 1), Span(folder / "a", 3, 3))]
    ) == [
        False,
        True,
    ]


def test_file_that_ends_inside_a_span_is_an_error(folder, way):
    (folder / "short").write_bytes(b"abc")
    (folder / "long").write_bytes(b"abcdef")

    with pytest.raises(OSError, match="short ends at byte 3"):
        equal_spans([(Span(folder / "long", 0, 6), Span(folder / "short", 0, 6))])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_agrees_with_slicing(folder, left, right, begin, end):
    (folder / "x").write_bytes(left)
    (folder / "y").write_bytes(right)
    begin, end = min(begin, end, len(left), len(right)), min(max(begin, end), len(left), len(right))

    [verdict] = equal_spans([(Span(folder / "x", begin, end), Span(folder / "y", begin, end))])

    assert verdict == (left[begin:end] == right[begin:end])
