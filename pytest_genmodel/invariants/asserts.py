"""assert_same_weights: the weights of two checkpoints or models, in a test of your own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_genmodel.checkpoints.diff import WeightDifference, compare_components
from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.errors import BadInputError, GenmodelError
from pytest_genmodel.pipelines.equality import tensor_differences
from pytest_genmodel.pipelines.pipeline import Pipeline

MOST_EXPLAINED = 5
"""Tensors of a component whose difference is spelled out; the others are named."""


class WeightsDifferError(GenmodelError, AssertionError):
    """Two models that should hold the same weights do not; says which tensors, how much, and what it looks like."""


def assert_same_weights(candidate: Any, reference: Any, *, except_for: Iterable[str] = ()) -> None:
    """Assert that two models hold the same weights, by the bit; a cast that loses nothing is the same.

    Args:
        candidate, reference: two `Pipeline`s (the fixtures), whose files are compared, or two torch modules,
            whose parameters and buffers are.
        except_for: names of components that may differ; with pipelines only.

    Raises:
        WeightsDifferError: an AssertionError that lists the tensors.
        BadInputError: the two are not of one kind, or `except_for` names no component.
    """
    __tracebackhide__ = True
    if isinstance(candidate, Pipeline) and isinstance(reference, Pipeline):
        problems = _pipelines(candidate, reference, set(except_for))
    elif hasattr(candidate, "named_parameters") and hasattr(reference, "named_parameters"):
        problems = [
            f"{difference.name} {difference.what}" for difference in tensor_differences(reference, candidate)
        ]
    else:
        raise BadInputError(
            "assert_same_weights takes two pipelines or two torch modules, not "
            f"{type(candidate).__name__} and {type(reference).__name__}"
        )
    if problems:
        raise WeightsDifferError(
            "the weights differ:\n" + "\n".join(f"  {problem}" for problem in problems[:20])
        )


def _pipelines(candidate: Pipeline, reference: Pipeline, except_for: set[str]) -> list[str]:
    known = set(reference.components) | set(candidate.components)
    if unknown := sorted(except_for - known):
        raise BadInputError(f"except_for names {unknown[0]!r}; the components are {', '.join(sorted(known))}")
    problems = []
    for name, theirs in reference.checkpoint.components.items():
        ours = candidate.checkpoint.components.get(name)
        if name in except_for or not theirs.has_weights:
            continue
        if ours is None or not ours.has_weights:
            problems.append(f"{name}: the candidate has none")
        else:
            problems += _component(name, compare_components(ours, theirs))
    return problems


def _component(name: str, difference: WeightDifference) -> list[str]:
    problems = []
    for tensor in difference.worst_first()[:MOST_EXPLAINED]:
        comparison = difference.detail(tensor)
        looks = f"; {comparison.likeness.text}" if comparison.likeness else ""
        problems.append(
            f"{name}: {tensor} differs by {comparison.relative_difference:.3g} of its norm, max |a-b| "
            f"{comparison.max_abs:.3g}{looks}"
        )
    if others := difference.worst_first()[MOST_EXPLAINED:]:
        problems.append(f"{name}: and {len(others)} more tensors differ: {summarise(others)}")
    if difference.rounded:
        problems.append(f"{name}: rounded to a narrower dtype: {summarise(difference.rounded)}")
    if difference.missing:
        problems.append(f"{name}: not in the candidate: {summarise(difference.missing)}")
    if difference.extra:
        problems.append(f"{name}: in the candidate only: {summarise(difference.extra)}")
    return problems
