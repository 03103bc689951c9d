"""A LoRA that lies beside a component and is merged into it: who loads both has it twice."""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose
from pathlib import Path
from statistics import median

from pytest_genmodel.checkpoints.alpha import PEFT_FILES
from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.diff import WeightDifference
from pytest_genmodel.checkpoints.formats.lora_adapter import DIFFUSERS_NAME
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.products import Products, more_than_products, products
from pytest_genmodel.diagnosis.adapter_strength import strength
from pytest_genmodel.diagnosis.finding import Finding, finding_of
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.errors import GenmodelError

MOST_LAYERS = 16
"""Layers of which it is worked out what was added to them."""
_CLOSE = 0.05


def merged_findings(
    component: str, difference: WeightDifference, checkpoint: Checkpoint
) -> Iterator[Finding]:
    """Say which LoRA beside the components was added to the reference's weights to make ours, and how many times.

    Args:
        component: the denoiser.
        difference: what comparing its weights came to.
        checkpoint: the candidate.
    """
    if difference.glances is not None or not difference.changed:
        return
    for path in checkpoint.unread:
        found = _products(path)
        if found is None:
            continue
        times = _times(difference, found)
        if times is None:
            continue
        names = [f"{module}.weight" for module in found.names if f"{module}.weight" in difference.changed]
        often = round(times) if times > 1.5 and isclose(times, round(times), rel_tol=_CLOSE) else 1
        yield finding_of(
            "GM810",
            names,
            f"are the reference's plus {'' if often == 1 else f'{often} times '}what {path.name} beside them adds",
            of=difference.compared,
            after=f"; the strength is {times:.3g} of what the file says",
            component=component,
            severity=Severity.ERROR if often > 1 else None,
            cause="each save merged the LoRA again, into what the one before had made" if often > 1 else None,
            evidence={"file": path.name, "times": times},
        )


def _products(path: Path) -> Products | None:
    if path.name not in (DIFFUSERS_NAME, PEFT_FILES[0]):
        return None
    try:
        adapter = open_checkpoint(path, path.name).adapter
        return None if adapter is None or more_than_products(adapter) else products(adapter)
    except GenmodelError:
        return None  # what is wrong with a file that nobody reads is not said here


def _times(difference: WeightDifference, found: Products) -> float | None:
    """How many times the LoRA's own strength most of its layers took up; None where they are not of its making."""
    import torch

    layers = [m for m in found.names if f"{m}.weight" in difference.counterparts]
    seen: list[float] = []
    looked_at = layers[:: max(1, len(layers) // MOST_LAYERS)][:MOST_LAYERS]
    for module in looked_at:
        ours, theirs = difference.read(f"{module}.weight")
        added = (ours.double() - theirs.double()).flatten(1)
        rounding = torch.finfo(ours.dtype).eps * float(theirs.double().norm())
        acts = strength(module, found.read(module), added, rounding)
        if acts is not None and acts.fault in ("", "strength"):
            seen.append(acts.of_wanted)
    if 2 * len(seen) <= len(looked_at) or not seen:
        return None
    middle = median(seen)
    return middle if all(isclose(one, middle, rel_tol=_CLOSE) for one in seen) else None
