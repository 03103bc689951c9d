"""Neutral: to another dtype and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.residents import residents
from pytest_genmodel.transformations.bench import Bench
from pytest_genmodel.transformations.neutral import BrokenError, NotHereError, neutral


@neutral(code="GM614", cause="a tensor went through a narrower dtype on the way")
def float64_and_back(bench: Bench) -> Iterator[Any]:
    """Every model to float64 and back, which loses no bit."""
    if bench.is_large:
        raise NotHereError("a copy in float64 takes three times the memory of a large model")
    if bench.pipeline.placement.device == "mps":
        raise NotHereError("MPS has no float64")
    for name, model in bench.models.items():
        _there_and_back(name, model)
    yield bench.live


def _there_and_back(component: str, model: Any) -> None:
    import torch

    from pytest_genmodel.tensors import digest

    # An adapter's wrappers stand in these names, and in those of the residents they do not.
    kinds = {name: tensor.dtype for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    before = {name: digest(resident.tensor.cpu()) for name, resident in residents(model).items()}
    with quiet():
        model.to(torch.float64)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dtype != kinds[name]:
            tensor.data = tensor.data.to(kinds[name])
    changed = [
        name
        for name, resident in residents(model).items()
        if digest(resident.tensor.cpu()) != before.get(name)
    ]
    if changed:
        raise BrokenError(
            "GM614",
            f"{len(changed)} of {len(before)} tensors have other values after float64 and back",
            component=component,
            location=changed[0],
        )


def round_weights(bench: Bench) -> None:
    """Round every weight to bfloat16 and keep it in float32: what bfloat16 loses in storage, and nothing else."""
    import torch

    for model in bench.models.values():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype == torch.float32:
                tensor.data = tensor.data.to(torch.bfloat16).to(torch.float32)


def move_to_bfloat16(bench: Bench) -> None:
    """Move the whole pipeline to bfloat16, as `pipeline.to(torch.bfloat16)` does it.

    Raises:
        BrokenError: a tensor is not its own value rounded.
    """
    import torch

    for name, model in bench.models.items():
        _round(name, model, torch.bfloat16)


def _round(component: str, model: Any, dtype: Any) -> None:
    """Move a model, and see that every tensor is its own value rounded, or was left as it is."""
    import torch

    before = {name: resident.tensor.clone() for name, resident in residents(model).items()}
    with quiet():
        model.to(dtype)
    for name, resident in residents(model).items():
        expected = before[name].to(resident.tensor.dtype) if name in before else None
        if expected is None or not torch.equal(expected.nan_to_num(), resident.tensor.nan_to_num()):
            raise BrokenError(
                "GM614",
                f"moved to {str(dtype).removeprefix('torch.')}, {name} is not its own value rounded",
                component=component,
                location=name,
            )
