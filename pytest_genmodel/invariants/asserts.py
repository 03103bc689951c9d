"""assert_same_weights: the weights of two checkpoints or models, in a test of your own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.diff import WeightDifference, hold_the_same_numbers
from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.diagnosis.difference import how_far
from pytest_genmodel.errors import BadInputError, GenmodelError
from pytest_genmodel.pipelines.equality import TensorDifference, compare_stored, tensor_differences
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.residents import residents
from pytest_genmodel.tensors.smallest import NO_TOLERANCE

if TYPE_CHECKING:
    from pytest_genmodel.tensors import Comparison

MOST_EXPLAINED = 5
"""Tensors of a component whose difference is spelled out; the others are named."""


class WeightsDifferError(GenmodelError, AssertionError):
    """Two models that should hold the same weights do not; says which tensors, how much, and what it looks like."""


def assert_same_weights(candidate: Any, reference: Any, *, except_for: str | Iterable[str] = ()) -> None:
    """Assert that two models hold the same weights, exactly; a cast that loses nothing is the same.

    Args:
        candidate: a `Pipeline` (the fixture), whose files are compared, or a torch module, whose parameters and
            buffers are.
        reference: the other, of the same kind.
        except_for: names of components that may differ (or the one name); with pipelines only.

    Raises:
        WeightsDifferError: an AssertionError that lists the tensors.
        BadInputError: the two are not of one kind, `except_for` names no component, or nothing is left to compare.
    """
    __tracebackhide__ = True
    allowed = {except_for} if isinstance(except_for, str) else set(except_for)
    apart = _Apart()
    if isinstance(candidate, Pipeline) and isinstance(reference, Pipeline):
        problems = _pipelines(candidate, reference, allowed, apart)
    elif hasattr(candidate, "named_parameters") and hasattr(reference, "named_parameters"):
        if allowed:
            raise BadInputError("except_for names components of pipelines; a torch module has none")
        problems = _modules(candidate, reference, apart)
    else:
        raise BadInputError(
            "assert_same_weights takes two pipelines or two torch modules, not "
            f"{type(candidate).__name__} and {type(reference).__name__}"
        )
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:20])
        raise WeightsDifferError(f"the weights differ:\n{listed}\n  {apart.text}")


@dataclass
class _Apart:
    """What was further apart than nothing, over all components; `unpaired` where a tensor has no counterpart."""

    comparisons: list[Comparison] = field(default_factory=list)
    unpaired: bool = False

    @property
    def text(self) -> str:
        """The smallest tolerance under which all of it would pass."""
        if self.unpaired or not self.comparisons:
            return NO_TOLERANCE
        from pytest_genmodel.tensors.message import would_pass

        enough = would_pass(*self.comparisons)
        return enough if enough == NO_TOLERANCE else f"would pass assert_close: {enough}"


def _pipelines(candidate: Pipeline, reference: Pipeline, except_for: set[str], apart: _Apart) -> list[str]:
    known = set(reference.components) | set(candidate.components)
    if unknown := sorted(except_for - known):
        raise BadInputError(f"except_for names {unknown[0]!r}; the components are {', '.join(sorted(known))}")
    ours, theirs = (
        {name: part for name, part in pipeline.checkpoint.components.items() if part.has_weights}
        for pipeline in (candidate, reference)
    )
    names = [name for name in dict.fromkeys((*theirs, *ours)) if name not in except_for]
    if not names:
        raise BadInputError(
            f"nothing is left to compare: except_for names every component with weights "
            f"({', '.join(sorted({*ours, *theirs}))})"
            if ours or theirs
            else "nothing is left to compare: no component has weights"
        )
    problems = []
    for name in names:
        if name not in ours or name not in theirs:
            problems.append(f"{name}: the {'reference' if name in ours else 'candidate'} has no weights")
            apart.unpaired = True
        else:
            problems += _component(name, compare_stored(ours[name], theirs[name]), apart)
    if candidate.family.denoiser not in except_for and (adapters := _adapters(candidate, reference)):
        problems += adapters
        apart.unpaired = True
    return problems


def _adapters(candidate: Pipeline, reference: Pipeline) -> list[str]:
    ours, theirs = candidate.checkpoint.adapter, reference.checkpoint.adapter
    where = candidate.family.denoiser
    if ours is None and theirs is None:
        return []
    if ours is None or theirs is None:
        return [f"{where}: only the {'reference' if ours is None else 'candidate'} carries an adapter"]
    if ours.weights.content_digest() != theirs.weights.content_digest():
        return [f"{where}: the adapters differ"]
    return []


def _modules(candidate: Any, reference: Any, apart: _Apart) -> list[str]:
    if not residents(candidate) and not residents(reference):
        raise BadInputError("nothing is left to compare: neither module has a parameter or buffer")
    found = [
        difference
        for difference in tensor_differences(reference, candidate)
        if difference.pair is None or not _same_numbers(*difference.pair)
    ]
    found.sort(key=lambda difference: -difference.distance)
    apart.unpaired = any(difference.pair is None for difference in found)
    apart.comparisons = [difference.figures() for difference in found if difference.pair is not None]
    problems = [_tensor(difference) for difference in found[:MOST_EXPLAINED]]
    if others := found[MOST_EXPLAINED:]:
        names = summarise(difference.name for difference in others)
        problems.append(f"and {len(others)} more tensors differ: {names}")
    return problems


def _same_numbers(actual: Any, expected: Any) -> bool:
    return actual.shape == expected.shape and hold_the_same_numbers(actual.cpu(), expected.cpu())


def _tensor(difference: TensorDifference) -> str:
    comparison = difference.detail()
    if comparison is None:
        return f"{difference.name} {difference.what}"
    looks = f"; {comparison.likeness.text}" if comparison.likeness else ""
    return f"{difference.name} {difference.what}: {how_far(comparison)}{looks}"


def _component(name: str, difference: WeightDifference, apart: _Apart) -> list[str]:
    problems = []
    apart.comparisons += difference.changed.values()
    apart.unpaired |= bool(difference.missing or difference.extra)
    if difference.rounded:
        apart.comparisons += (difference.detail(tensor) for tensor in difference.rounded)
    for tensor in difference.worst_first()[:MOST_EXPLAINED]:
        comparison = difference.detail(tensor)
        looks = f"; {comparison.likeness.text}" if comparison.likeness else ""
        problems.append(f"{name}: {tensor} differs: {how_far(comparison)}{looks}")
    if others := difference.worst_first()[MOST_EXPLAINED:]:
        problems.append(f"{name}: and {len(others)} more tensors differ: {summarise(others)}")
    if difference.rounded:
        problems.append(f"{name}: rounded to a narrower dtype: {summarise(difference.rounded)}")
    if difference.missing:
        problems.append(f"{name}: not in the candidate: {summarise(difference.missing)}")
    if difference.extra:
        problems.append(f"{name}: in the candidate only: {summarise(difference.extra)}")
    return problems
