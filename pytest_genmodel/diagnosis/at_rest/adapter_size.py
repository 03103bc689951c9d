"""How much a LoRA adds to the layers that it is for, against what stands there."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from statistics import median

from pytest_genmodel.checkpoints.alpha import scales
from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.checkpoints.products import Product, Products, more_than_products, products
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity

LARGE, ABSURD = 100.0, 1000.0
"""Times the norm of the layer's own weight: a trained LoRA adds a few hundredths of it, factors that were drawn at
random for a small model some ten times as much. An average that runs away passes both in a few hundred steps."""
NOTHING = 1e-6
"""Of the norm of the layer's weight: what adds less is lost in the last bits of float32, in bfloat16 long before."""
MOST_SCALE = 64.0
"""alpha / rank. Trainers and examples write 1/256 (SAT) to 4; an alpha of 32 that is kept while the rank goes down to
1 makes 32. Twice that is let pass. With PEFT's `use_rslora` the same alpha / rank acts sqrt(rank) times as much."""
MOST_LAYERS = 16
"""Layers that are looked at, spread over the model."""


def scale(part: Part, adapter: Adapter) -> Iterator[Finding]:
    """An alpha so many times the rank that no trainer writes it, or below zero, where a loader reads it."""
    known = scales(adapter)
    stabilised = adapter.config.get("use_rslora") is True
    found = {
        module: known.applied(module) / (rank**0.5 if stabilised else 1.0)
        for module, rank in known.rank_by_module.items()
    }

    def odd(which: list[str], is_what: str, after: str, cause: str) -> Finding:
        worst = max(which, key=lambda module: abs(found[module]))
        rank, source = known.rank_by_module[worst], known.sources.get(worst, "")
        return Finding(
            "GM809",
            f"alpha is {is_what} for {len(which)} of {len(found)} layers ({worst}: alpha {found[worst] * rank:.4g}, "
            f"rank {rank}, by {source}){after}",
            component=part.name,
            location=f"{adapter.file.name}:lora_alpha",
            cause=cause,
            action="Write the alpha that was trained with; what a loader reads is applied as it stands.",
            evidence={"scale": found[worst], "rank": rank, "layers": len(which), "source": source},
        )

    if below := [module for module, value in found.items() if value < 0.0]:
        yield odd(
            below,
            "below zero",
            ": what was learned is taken away instead of added",
            "a weight that was meant for inference, or the result of a subtraction, was written as the alpha",
        )
    if far := [module for module, value in found.items() if value > MOST_SCALE]:
        yield odd(
            far,
            f"{max(found[module] for module in far):.4g} times the rank",
            f"; trainers write up to 4, {MOST_SCALE:g} is let pass",
            "the alpha was written for another rank, or multiplied where it must be divided",
        )


def proportion(part: Part, adapter: Adapter) -> Iterator[Finding]:
    """The update of half of the layers is larger than their weights, or too small for any number to hold."""
    if part.component is None or not part.component.has_weights or more_than_products(adapter):
        return
    pairs = products(adapter)
    base = {unwrapped(name).removesuffix(".weight"): name for name in part.component.weights.tensors}
    layers = [module for module in pairs.names if module in base]
    ratios = {
        module: ratio
        for module in layers[:: max(1, len(layers) // MOST_LAYERS)]
        if (ratio := _ratio(part, pairs, module, base[module])) is not None
    }
    if not ratios or all(ratio == 0.0 for ratio in ratios.values()):
        return  # factors of zeros are what `untrained` speaks of
    middle = median(ratios.values())
    if NOTHING <= middle <= LARGE:
        return
    most = max(ratios, key=ratios.__getitem__)
    how = f"is {middle:.3g} times their weights" if middle > LARGE else f"is {middle:.2g} of their weights"
    yield Finding(
        "GM809",
        f"what the adapter adds to half of its layers {how} (largest: {most}, {ratios[most]:.3g})",
        component=part.name,
        location=most,
        severity=Severity.ERROR if middle > ABSURD else None,
        cause="the training or its average ran away, or the alpha is not the one that was trained with"
        if middle > LARGE
        else "the learning rate was next to zero, or the scale is applied twice",
        evidence={"median": middle, "layers": ratios},
    )


def _ratio(part: Part, pairs: Products, module: str, name: str) -> float | None:
    """The Frobenius norm of scale x B @ A over that of the layer's weight; None where one of them is no number."""
    assert part.component is not None
    weight = float(part.component.weights.read(name).double().norm())
    product = pairs.read(module)
    if product.up.shape[1] != product.rank:
        return None  # halves of two ranks: that it cannot be attached is said by who tries to
    added = _norm(product)
    return added / weight if weight > 0.0 and isfinite(added) and isfinite(weight) else None


def _norm(product: Product) -> float:
    """||B @ A|| from the small Gram matrices of its factors, of rank x rank values."""
    square = float(((product.up.T @ product.up) * (product.down @ product.down.T)).sum())
    return abs(product.scale) * float(max(square, 0.0) ** 0.5)
