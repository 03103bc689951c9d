"""Neutral: to another dtype and back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.residents import residents
from pytest_genmodel.transformations.bench import Bench, Observation, looks
from pytest_genmodel.transformations.neutral import (
    BrokenError,
    Done,
    NotHereError,
    neutral,
    require_room_for_a_copy,
)


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


@neutral(code="GM614", cause="the model makes a tensor anew, or reads it from elsewhere, when it is moved")
def device_and_back(bench: Bench) -> Iterator[Any]:
    """The pipeline to the CPU and back to its device: every tensor as before, where it was. No sample is made."""
    import torch

    if bench.is_large:
        raise NotHereError("every weight of a large model would be copied twice to be compared")
    device = torch.device(bench.pipeline.placement.device)
    before = {
        name: {place: resident.tensor.clone() for place, resident in residents(model).items()}
        for name, model in bench.models.items()
    }
    with quiet():
        bench.live.to("cpu")
        bench.live.to(device)
    for name, model in bench.models.items():
        changed = [
            place
            for place, resident in residents(model).items()
            if place not in before[name] or not _is_same(resident.tensor, before[name][place])
        ]
        if changed:
            raise BrokenError(
                "GM614",
                f"{len(changed)} of {len(before[name])} tensors are others after the CPU and back to {device}",
                component=name,
                location=changed[0],
            )
    yield None


def _is_same(tensor: Any, before: Any) -> bool:
    import torch

    is_there = (tensor.device, tensor.dtype, tensor.shape) == (before.device, before.dtype, before.shape)
    return is_there and torch.equal(tensor.nan_to_num(), before.nan_to_num())


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


def sampled_as_stored(bench: Bench, name: str, live: Any) -> Observation:
    """Look at a sample; with nothing done, at that of the weights as they are stored in 8 bits."""
    return looks(bench.sample(name or "weights rounded to 8 bits", live))


@neutral(
    code="GM619",
    observe=sampled_as_stored,
    cause="a layer computes in the dtype in which it is stored, or its input is cast to it",
    done=Done.FULL,
)
def layerwise_casting(bench: Bench) -> Iterator[Any]:
    """`enable_layerwise_casting`: the denoiser stored in float8, against its rounded weights stored as ever."""
    import torch

    denoiser = getattr(bench.live, bench.family.denoiser)
    require_room_for_a_copy(bench)
    if not hasattr(denoiser, "enable_layerwise_casting"):
        raise NotHereError(f"{type(denoiser).__name__} has no layerwise casting")
    twin = copy.deepcopy(denoiser)
    dtype = bench.pipeline.placement.torch_dtype
    with quiet():
        twin.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    ours = _tensors(denoiser)
    stored = {name: tensor for name, tensor in _tensors(twin).items() if tensor.dtype == torch.float8_e4m3fn}
    if not stored:
        raise NotHereError(f"{type(denoiser).__name__} stores no layer in another dtype")
    kept = {name: ours[name].data for name in stored}
    try:
        for name, tensor in stored.items():
            ours[name].data = tensor.data.to(ours[name].dtype)
        bench.base(sampled_as_stored)
    finally:
        for name, data in kept.items():
            ours[name].data = data
    other = copy.copy(bench.live)
    setattr(other, bench.family.denoiser, twin)
    yield other


def _tensors(model: Any) -> dict[str, Any]:
    return dict((*model.named_parameters(), *model.named_buffers()))


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
