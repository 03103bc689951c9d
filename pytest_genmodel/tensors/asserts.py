"""The assert that tests call.

assert_close(video.frames, golden, psnr(25), names=("frame", "channel", "height", "width"))
assert_close(model.state_dict(), reference.state_dict(), bitwise)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_genmodel.errors import BadInputError, GenmodelError

from .comparison import Comparison
from .inputs import is_plain
from .judge import compare
from .message import LABELS, Labels, brief, describe, would_pass
from .smallest import NO_TOLERANCE
from .tolerance import Tolerance

_MOST_LISTED = 8
# The problem nearest to the root comes first: a wrong shape explains more than a wrong value.
_GRAVITY = ("shape", "meta", "dtype", "device", "nonfinite", "values")


class TensorMismatchError(GenmodelError, AssertionError):
    """Two tensors, or two collections of tensors, are not close enough.

    `comparison` is the worst comparison (None if only the structure differs), `path` its place in the collection
    (such as ``['frames'][0]``, empty for a single tensor), `comparisons` all that failed, by path. `same_structure`
    says whether every tensor had a counterpart.
    """

    def __init__(
        self,
        message: str,
        comparison: Comparison | None,
        path: str,
        comparisons: dict[str, Comparison],
        *,
        same_structure: bool = True,
    ) -> None:
        super().__init__(message)
        self.same_structure = same_structure
        self.comparison = comparison
        self.path = path
        self.comparisons = comparisons


def assert_close(
    actual: Any,
    expected: Any,
    tolerance: Tolerance | str | None = None,
    *,
    names: Sequence[str] | None = None,
    label: str | tuple[str, str] | None = None,
    check_dtype: bool = True,
    check_device: bool = False,
    equal_nan: bool = False,
) -> None:
    """Raise TensorMismatchError unless `actual` is close to `expected`; everything is compared before it is raised.

    Args:
        actual: What `compare` accepts, or mappings and sequences of that, at any depth.
        expected: The same, with the same keys and lengths. None and text may be among them and must be equal.
        tolerance: As in `compare`; for collections, of every leaf.
        names: One name per axis; for collections, of every leaf.
        label: What to call the two sides, ("candidate", "reference"); a single text names the actual side.
        check_dtype: As in `compare`.
        check_device: As in `compare`.
        equal_nan: As in `compare`.

    Raises:
        TensorMismatchError: An AssertionError whose message tells what differs, where, and what it looks like.
        BadInputError: For arguments that cannot be used, and for two empty collections (nothing would be compared).
    """
    __tracebackhide__ = True
    error = _mismatch(
        actual,
        expected,
        _labels(label),
        tolerance=tolerance,
        names=names,
        check_dtype=check_dtype,
        check_device=check_device,
        equal_nan=equal_nan,
    )
    if error is not None:
        raise error


@dataclass(frozen=True)
class _Leaf:
    path: str
    actual: Any
    expected: Any


@dataclass(frozen=True)
class _Gap:
    """A place where the two structures differ, so that there is nothing to compare."""

    path: str
    text: str


def _mismatch(actual: Any, expected: Any, labels: Labels, **options: Any) -> TensorMismatchError | None:
    __tracebackhide__ = True
    if not (_is_collection(actual) or _is_collection(expected)):
        comparison = compare(actual, expected, **options)
        if comparison.passed:
            return None
        return TensorMismatchError(describe(comparison, labels), comparison, "", {"": comparison})
    pairs = list(_walk(actual, expected, "", labels))
    if not pairs:
        raise BadInputError("assert_close: both sides are empty, so nothing would be compared")
    gaps = [pair for pair in pairs if isinstance(pair, _Gap)]
    failed: dict[str, Comparison] = {}
    for leaf in pairs:
        if isinstance(leaf, _Leaf):
            comparison = _compare_leaf(leaf, options)
            if not comparison.passed:
                failed[leaf.path] = comparison
    if not (gaps or failed):
        return None
    worst = max(failed, key=lambda path: _gravity(failed[path]), default="")
    message = _list_of_mismatches(gaps, failed, len(pairs) - len(gaps), worst, labels)
    return TensorMismatchError(message, failed.get(worst), worst, failed, same_structure=not gaps)


def _compare_leaf(leaf: _Leaf, options: dict[str, Any]) -> Comparison:
    __tracebackhide__ = True
    try:
        return compare(leaf.actual, leaf.expected, **options)
    except BadInputError as error:
        raise BadInputError(f"at {leaf.path}: {error}") from None


def _walk(actual: Any, expected: Any, path: str, labels: Labels) -> Iterator[_Leaf | _Gap]:
    """Pair up the leaves of two collections; where they do not match, say so."""
    sides = (actual, expected)
    if all(isinstance(side, Mapping) for side in sides):
        for key in actual:
            if key in expected:
                yield from _walk(actual[key], expected[key], f"{path}[{key!r}]", labels)
            else:
                yield _Gap(f"{path}[{key!r}]", f"only in {labels[0]}")
        yield from (_Gap(f"{path}[{key!r}]", f"only in {labels[1]}") for key in expected if key not in actual)
    elif all(isinstance(side, (list, tuple)) for side in sides) and any(map(_is_collection, sides)):
        for position, (first, second) in enumerate(zip(actual, expected, strict=False)):
            yield from _walk(first, second, f"{path}[{position}]", labels)
        if len(actual) != len(expected):
            yield _Gap(
                path or "both sides", f"{labels[0]} has {len(actual)} items, {labels[1]} {len(expected)}"
            )
    elif any(side is None or isinstance(side, str) for side in sides):
        if actual is not expected and not (isinstance(actual, str) and actual == expected):
            yield _Gap(path, f"{labels[0]} is {_in_brief(actual)}, {labels[1]} is {_in_brief(expected)}")
    elif any(map(_is_collection, sides)):
        yield _Gap(
            path or "both sides", f"{labels[0]} is {_in_brief(actual)}, {labels[1]} is {_in_brief(expected)}"
        )
    else:
        yield _Leaf(path, actual, expected)


def _list_of_mismatches(
    gaps: list[_Gap], failed: dict[str, Comparison], compared: int, worst: str, labels: Labels
) -> str:
    count = (
        f"{len(failed)} of {compared} tensors differ" if failed else f"{compared} tensors are close enough"
    )
    structure = f"; {len(gaps)} places have no counterpart" if gaps else ""
    ordered = sorted(failed, key=lambda path: _gravity(failed[path]), reverse=True)
    rows = [(gap.path, gap.text) for gap in gaps] + [(path, brief(failed[path])) for path in ordered]
    margin = min(60, max(len(path) for path, _ in rows[:_MOST_LISTED]))
    lines = [f"{count}{structure}"]
    lines += [f"  {path:<{margin}}  {text}" for path, text in rows[:_MOST_LISTED]]
    if len(rows) > _MOST_LISTED:
        lines.append(f"  ... and {len(rows) - _MOST_LISTED} more")
    if failed:
        lines += ["", describe(failed[worst], labels, where=worst)]
    if gaps or len(failed) > 1:
        enough = NO_TOLERANCE if gaps else would_pass(*failed.values())
        lines += ["", f"all of them would pass: {enough}" if enough != NO_TOLERANCE else enough]
    return "\n".join(lines)


def _gravity(comparison: Comparison) -> tuple[int, float]:
    place = _GRAVITY.index(comparison.problem) if comparison.problem else len(_GRAVITY)
    return -place, comparison.relative_difference or 0.0


def _is_collection(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, (list, tuple)) and not is_plain(value))


def _in_brief(value: object) -> str:
    if value is None or isinstance(value, str):
        return repr(value)
    if isinstance(value, (Mapping, list, tuple)):
        return f"a {type(value).__name__} of {len(value)} items"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


def _labels(label: str | tuple[str, str] | None) -> Labels:
    if label is None:
        return LABELS
    if isinstance(label, str):
        return label, LABELS[1]
    if len(label) != 2 or not all(isinstance(side, str) for side in label):
        raise BadInputError(
            f"label: give one text, or a pair such as ('candidate', 'reference'), got {label!r}"
        )
    return label[0], label[1]
