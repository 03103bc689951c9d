"""Byte comparison of stretches of files: right at every place, in bounded memory."""

from __future__ import annotations

import itertools
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_genmodel.checkpoints import same_bytes
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.same_bytes import equal_spans, first_differences
from pytest_genmodel.checkpoints.spans import Span


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bytes")


@pytest.fixture(params=["memcmp", "without memcmp", "without preadv"])
def way(request, monkeypatch):
    if request.param == "without memcmp":
        monkeypatch.setattr(same_bytes, "MEMCMP", None)
    if request.param == "without preadv":
        monkeypatch.delattr(os, "preadv")
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
        [((a,), (Span(folder / "b", 0, 300_000),)), ((a,), (Span(folder / "c", 0, 300_000),)), ((a,), (a,))],
        threads,
    )

    assert verdicts == [False, True, True]


def whole(path, begin, end):
    return (Span(path, begin, end),)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_place_of_the_first_difference_is_known(folder, monkeypatch, threads):
    monkeypatch.setattr(same_bytes, "BUFFER", 1000)
    monkeypatch.setattr(same_bytes, "TASK", 4000)
    content = bytes(i * 31 % 251 for i in range(30_000))
    other = bytearray(content)
    for place in (5_500, 5_501, 21_000):
        other[place] ^= 1
    (folder / "a").write_bytes(content)
    (folder / "b").write_bytes(other)
    settled, met = [], []

    places = first_differences(
        [
            (whole(folder / "a", 0, 30_000), whole(folder / "b", 0, 30_000)),
            (whole(folder / "a", 0, 5_500), whole(folder / "b", 0, 5_500)),
            (whole(folder / "a", 0, 10), whole(folder / "b", 0, 11)),
            (whole(folder / "a", 6_000, 20_000), whole(folder / "b", 6_000, 20_000)),
        ],
        threads,
        settled.append,
        lambda: met.append(None),
    )

    assert places == [5_000, None, 0, None]
    assert met
    assert sum(settled) >= 5_000 + 5_500 + 14_000


def test_of_two_differences_met_at_once_the_first_counts(folder, monkeypatch):
    monkeypatch.setattr(same_bytes, "BUFFER", 1000)
    monkeypatch.setattr(same_bytes, "TASK", 4000)
    (folder / "a").write_bytes(bytes(8000))
    (folder / "b").write_bytes(b"\1" * 8000)
    both = threading.Barrier(2)

    [place] = first_differences(
        [(whole(folder / "a", 0, 8000), whole(folder / "b", 0, 8000))],
        2,
        on_difference=lambda: both.wait(timeout=10),
    )

    assert place == 0


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=60), st.data())
def test_how_a_tensor_is_cut_into_spans_makes_no_difference(folder, content, data):
    (folder / "x").write_bytes(b"abc" + content)
    (folder / "y").write_bytes(content + b"abc")
    flipped = data.draw(st.none() | st.integers(0, len(content) - 1))
    if flipped is not None:
        other = bytearray(content)
        other[flipped] ^= 1
        (folder / "y").write_bytes(other)

    def cut(path, start):
        places = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
        ends = [0, *places, len(content)]
        return tuple(Span(path, start + a, start + b) for a, b in itertools.pairwise(ends))

    [verdict] = equal_spans([(cut(folder / "x", 3), cut(folder / "y", 0))])

    assert verdict == (flipped is None)


def test_other_sizes_are_never_equal_and_empty_spans_always(folder):
    (folder / "a").write_bytes(b"abc")
    a = folder / "a"

    assert equal_spans([(whole(a, 0, 3), whole(a, 0, 2)), (whole(a, 1, 1), ()), ((), ())]) == [
        False,
        True,
        True,
    ]


def test_file_that_ends_inside_a_span_is_damaged(folder, way):
    (folder / "short").write_bytes(b"abc")
    (folder / "long").write_bytes(b"abcdef")

    with pytest.raises(DamagedFileError, match="short at byte 3: the file ended") as caught:
        equal_spans([(whole(folder / "long", 0, 6), whole(folder / "short", 0, 6))])
    assert caught.value.damage is Damage.TRUNCATED


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_agrees_with_slicing(folder, left, right, begin, end):
    (folder / "x").write_bytes(left)
    (folder / "y").write_bytes(right)
    begin, end = min(begin, end, len(left), len(right)), min(max(begin, end), len(left), len(right))

    [verdict] = equal_spans([(whole(folder / "x", begin, end), whole(folder / "y", begin, end))])

    assert verdict == (left[begin:end] == right[begin:end])
