"""Neutral: groups of layers parked elsewhere while they do not run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_genmodel.errors import first_line
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.transformations.bench import Bench
from pytest_genmodel.transformations.neutral import Done, NotHereError, neutral, require_room_for_a_copy

_TOO_EARLY = "a group of layers runs before its weights have come, or after they have gone"


@neutral(cause=_TOO_EARLY, done=Done.FULL)
def group_offload(bench: Bench) -> Iterator[Any]:
    """`enable_group_offload`, one block at a time: each on the accelerator only while it runs."""
    with _parked(bench, offload_type="block_level", num_blocks_per_group=1) as live:
        yield live


@neutral(cause=_TOO_EARLY, done=Done.FULL)
def leaf_offload(bench: Bench) -> Iterator[Any]:
    """`enable_group_offload`, one layer at a time; on CUDA the next one is fetched in a stream of its own."""
    stream = bench.pipeline.placement.device.startswith("cuda")
    with _parked(bench, offload_type="leaf_level", use_stream=stream) as live:
        yield live


@contextmanager
def _parked(bench: Bench, **options: Any) -> Iterator[Any]:
    """A copy of the pipeline with each model in groups: the library has no way to undo it.

    On the CPU nothing moves, and the library's hooks run all the same.
    """
    require_room_for_a_copy(bench)
    import torch

    try:
        from diffusers.hooks import apply_group_offloading
    except ImportError as error:
        raise NotHereError("the installed diffusers has no group offloading") from error
    twin = copy.deepcopy(bench.live)
    device = torch.device(bench.pipeline.placement.device)
    refused = {}
    models = [(name, part) for name, part in twin.components.items() if isinstance(part, torch.nn.Module)]
    for name, model in models:
        enable = getattr(model, "enable_group_offload", None)
        try:
            with quiet():
                if enable is not None:
                    enable(onload_device=device, **options)
                else:
                    apply_group_offloading(model, onload_device=device, **options)
        except ValueError as error:  # what the library raises for a model that it cannot do this for
            refused[name] = first_line(error)
    if len(refused) == len(models):
        raise NotHereError(f"diffusers refuses every model: {next(iter(refused.values()))}")
    if refused:
        bench.notes[str(options["offload_type"])] = f"diffusers refuses {', '.join(refused)}"
    yield twin
