"""Faults of pipelines with two denoisers, one for the early and one for the late steps."""

from __future__ import annotations

import os

from pytest_genmodel.checkpoints.checkpoint import INDEX
from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.registry import Place, fault

_THREAD = "https://github.com/huggingface/diffusers/pull/12074"
_MODEL = "wan2.2-a14b-i2v"


def _two(copy: Copy) -> None:
    if "transformer_2" not in copy.checkpoint.components:
        copy.does_not_apply("the model has one denoiser")


@fault(
    "GM401",
    "same_config",
    layer="config",
    model=_MODEL,
    needs_reference=True,
    entries=("diffusers-12074-boundary-ratio-none",),
    seen_in=_THREAD,
)
def boundary_between_the_experts_lost(copy: Copy) -> Place:
    """The model index lost the boundary between the two denoisers: the second one is never called."""
    _two(copy)
    copy.set_index(boundary_ratio=...)
    return Place(None, f"{INDEX}:boundary_ratio")


@fault("GM401", "same_config", layer="config", model=_MODEL, needs_reference=True, seen_in=_THREAD)
def boundary_between_the_experts_moved(copy: Copy) -> Place:
    """The boundary between the two denoisers lies at another noise level than the one they were trained for."""
    _two(copy)
    copy.set_index(boundary_ratio=0.5)
    return Place(None, f"{INDEX}:boundary_ratio")


@fault("GM431", "same_weights", layer="config", model=_MODEL, expect="identical")
def experts_exchanged(copy: Copy) -> Place:
    """The two denoisers lie in each other's folder: each works at the noise levels of the other."""
    _two(copy)
    one, other = (copy.path(name) for name in ("transformer", "transformer_2"))
    aside = one.with_name("transformer_aside")
    os.replace(one, aside)
    os.replace(other, one)
    os.replace(aside, other)
    return Place("transformer", "transformer/")
