"""Neutral: another pipeline object around the same weights, or the weights parked elsewhere between calls."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.errors import first_line
from pytest_genmodel.pipelines.library import dtype_keyword, quiet
from pytest_genmodel.pipelines.residents import residents
from pytest_genmodel.transformations.bench import Bench
from pytest_genmodel.transformations.neutral import BrokenError, Done, NotHereError, neutral


@neutral(cause="something of the pipeline is not copied with it: a hook, a processor, an attribute")
def deepcopy(bench: Bench) -> Iterator[Any]:
    """`copy.deepcopy` of the pipeline: a second one that has no memory in common with the first."""
    if bench.is_large:
        raise NotHereError("a second copy of a large model takes twice its memory")
    twin = copy.deepcopy(bench.live)
    for name, model in bench.models.items():
        _require_apart(name, model, getattr(twin, name))
    yield twin


def _require_apart(component: str, model: Any, twin: Any) -> None:
    places = {
        resident.tensor.data_ptr(): name
        for name, resident in residents(model).items()
        if resident.tensor.numel()
    }
    shared = [
        name
        for name, resident in residents(twin).items()
        if resident.tensor.numel() and resident.tensor.data_ptr() in places
    ]
    if shared:
        raise BrokenError(
            "GM616",
            f"{len(shared)} of {len(places)} tensors of the copy lie in the memory of the original's",
            component=component,
            location=shared[0],
        )


@neutral(cause="an argument of the pipeline, or its scheduler, does not reach the new one")
def from_pipe(bench: Bench) -> Iterator[Any]:
    """`from_pipe` into its own class: another pipeline object around the same components."""
    cls = type(bench.live)
    dtype = bench.pipeline.placement.torch_dtype
    kept = [
        (part, name, tensor, tensor.data)
        for model in bench.models.values()
        for part in model.modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None and tensor.is_floating_point() and tensor.dtype != dtype
    ]
    try:
        with quiet():
            twin = cls.from_pipe(bench.live, **{dtype_keyword("diffusers"): dtype})
    except Exception as error:  # what the library raises for a class that it cannot do this for
        raise NotHereError(f"{cls.__name__}.from_pipe refuses: {first_line(error)}") from error
    yield twin
    # It casts the components in place, and they are the original's too (docs/neutrality.md).
    for part, name, tensor, data in kept:
        tensor.data = data
        if name in part._buffers:
            part._buffers[name] = tensor
    if kept:
        bench.notes["from_pipe"] = f"it casts {len(kept)} tensors of the original in place; put back"


@neutral(cause="a component runs before its weights have come, or after they have gone", done=Done.MOVED)
def cpu_offload(bench: Bench) -> Iterator[Any]:
    """`enable_model_cpu_offload`: each model on the accelerator only while it runs.

    On the CPU nothing moves, and accelerate's hooks run all the same.
    """
    with offloaded(bench, bench.pipeline.placement.device) as live:
        yield live


@contextmanager
def offloaded(bench: Bench, device: str) -> Iterator[Any]:
    """Let accelerate move each model to `device` while it runs."""
    with quiet():
        bench.live.enable_model_cpu_offload(device=device)
    try:
        yield bench.live
    finally:
        with quiet():
            bench.live.remove_all_hooks()
            bench.live.to(device)
            bench.live._offload_device = None
