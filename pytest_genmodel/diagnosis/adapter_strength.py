"""How strongly a LoRA really acts on a layer: what was added to its weight, against what its file says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isclose
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.checkpoints.products import Product
from pytest_genmodel.diagnosis.finding import Finding, name_evidence
from pytest_genmodel.diagnosis.limit import against

if TYPE_CHECKING:
    import torch

CLOSE = 1e-2
"""Two strengths this close to each other, relatively, are one: an estimate of 16-bit weights is no better."""
_PURE = 0.2
"""What may be left, relative to what was added, once the best multiple of B @ A is taken off (beside rounding)."""


@dataclass(frozen=True)
class Strength:
    """A layer's adapter as it acts: `acts` times B @ A, where its file says `wanted` times.

    `fault` is "" (it acts as the file says), "ignored", "strength", "transposed", or "other": what was added is no
    multiple of B @ A.
    """

    module: str
    rank: int
    wanted: float
    acts: float
    fault: str = ""

    @property
    def of_wanted(self) -> float:
        """The strength as a multiple of what the file says."""
        return self.acts / self.wanted if self.wanted else float("nan")


def strength(module: str, product: Product, added: torch.Tensor, rounding: float) -> Strength | None:
    """Estimate how many times B @ A was added to a layer's weight; None where rounding hides B @ A.

    Args:
        module: the layer.
        product: what the file says.
        added: float64 (outputs, inputs): the merged weight minus the base's.
        rounding: the largest norm that rounding to the weight's dtype can leave in `added`.
    """
    direction = product.unscaled
    size = float(direction.norm())
    wanted = product.scale * size
    if not size or not wanted or abs(wanted) < 4 * rounding:
        return None
    if added.shape != direction.shape:
        return Strength(module, product.rank, product.scale, 0.0, "other")
    if float(added.norm()) <= max(rounding, CLOSE * abs(wanted)) and abs(wanted) > 2 * rounding:
        return Strength(module, product.rank, product.scale, 0.0, "ignored")
    acts = float((added * direction).sum()) / size**2
    if _is_multiple(added, direction, acts, rounding):
        fault = "" if isclose(acts, product.scale, rel_tol=CLOSE) else "strength"
        return Strength(module, product.rank, product.scale, acts, fault)
    if added.shape[0] == added.shape[1]:
        turned = float((added * direction.T).sum()) / size**2
        if _is_multiple(added, direction.T, turned, rounding):
            return Strength(module, product.rank, product.scale, turned, "transposed")
    return Strength(module, product.rank, product.scale, acts, "other")


def _is_multiple(added: torch.Tensor, direction: torch.Tensor, times: float, rounding: float) -> bool:
    rest = float((added - times * direction).norm())
    return rest <= rounding + 1e-4 * float(added.norm()) and rest <= _PURE * float(added.norm()) + rounding


def strength_findings(found: Iterable[Strength], component: str, where: str) -> Iterator[Finding]:
    """Say which layers do not act as their file says, those of one fault together.

    Args:
        found: every layer that could be told.
        component: the denoiser's name.
        where: through which load path, for the message ("merged by diffusers").
    """
    layers = list(found)
    groups: dict[tuple[str, float], list[Strength]] = {}
    for layer in layers:
        if layer.fault:
            figure = float(f"{layer.of_wanted:.2g}") if layer.fault == "strength" else 0.0
            groups.setdefault((layer.fault, figure), []).append(layer)
    for (fault, _), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        names = [layer.module for layer in members]
        first = members[0]
        head = f"{len(names)} of {len(layers)} layers {where}"
        evidence = name_evidence(names) | {"wanted": first.wanted, "acts": first.acts, "rank": first.rank}
        if fault == "strength":
            furthest = max(abs(layer.of_wanted - 1.0) for layer in members)
            evidence |= against(furthest, CLOSE, "relative difference of the strength")
        code, what, cause = _said(fault, first, layers)
        yield Finding(
            code,
            f"{head} {what}: {summarise(names)}",
            component=component,
            location=names[0],
            cause=cause,
            evidence=evidence,
        )


def _said(fault: str, layer: Strength, layers: list[Strength]) -> tuple[str, str, str]:
    if fault == "ignored":
        return (
            "GM827",
            "got nothing of the adapter",
            "its names match no layer of the model (a prefix that is missing or too much), or the layer is not "
            "among the target modules",
        )
    if fault == "transposed":
        return (
            "GM828",
            "got the transpose of B @ A",
            "lora_A and lora_B were exchanged, or multiplied as A @ B",
        )
    if fault == "other":
        return (
            "GM828",
            "got something else than a multiple of B @ A",
            "the factors of another layer, factors in part, or an adapter of another run",
        )
    return (
        "GM826",
        f"act at {times(layer.of_wanted)} the strength that the file says (alpha/rank = {layer.wanted:.4g}, "
        f"acting {layer.acts:.4g})",
        _cause_of_strength(layer, layers),
    )


def times(ratio: float) -> str:
    """A strength in words, before `the strength`: `1/4 of`, `twice`, `0.3 times`."""
    for whole in range(2, 513):
        if isclose(ratio, 1 / whole, rel_tol=CLOSE / 2):
            return f"1/{whole} of"
    if isclose(ratio, round(ratio), rel_tol=CLOSE / 2) and ratio > 1.5:
        return "twice" if round(ratio) == 2 else f"{round(ratio)} times"
    return f"{ratio:.3g} times"


def _cause_of_strength(layer: Strength, layers: list[Strength]) -> str:
    acts, wanted, rank = layer.acts, layer.wanted, layer.rank
    alpha = wanted * rank

    def is_about(value: float) -> bool:
        return isclose(acts, value, rel_tol=CLOSE)

    ranks = {other.rank for other in layers}
    if is_about(1.0):
        return f"alpha {alpha:g} / r {rank} was lost: alpha = rank was taken, as loaders do that are told no alpha"
    if is_about(2 * wanted):
        return "it was added twice: merged and attached as well, or merged two times"
    if is_about(-wanted):
        return "it was subtracted: unmerged from weights that it was never merged into"
    if is_about(wanted**2):
        return "alpha/rank was applied twice: in the factors and at the load"
    if is_about(alpha):
        return f"alpha ({alpha:g}) was taken for the scale: it was not divided by the rank ({rank})"
    if is_about(1 / rank):
        return f"1/rank (1/{rank}) stands in for alpha/rank"
    if is_about(wanted / rank):
        return f"it was divided by the rank ({rank}) once more"
    if other := next((other for other in sorted(ranks - {rank}) if is_about(other / rank)), None):
        return f"the rank of another layer ({other}) was taken for the alpha of all"
    return "a scale of the loader's own (lora_scale, adapter_weights), or another alpha than the file's"
