"""What an optimizer's step began from, as digests: two runs that agree there take the same step."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TRACED = 16
"""Steps of a process of which a trace is kept."""

WEIGHTS, MOMENTS, COUNTS, GRADIENTS, RANDOM = "weights", "moments", "counts", "gradients", "random"
"""What a trace tells apart; `counts` are the optimizer's own step numbers, `random` the global generators."""

_COUNTS = ("step", "steps", "k", "num_steps")


def trace_of(optimizer: Any, weights: Sequence[str]) -> dict[str, str]:
    """Describe the step that `optimizer` is about to take; `weights` are the digests of its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    leaves = [
        (f"{number}.{name}", value) for number, state in enumerate(states) for name, value in _leaves(state)
    ]
    counts = [(name, value) for name, value in leaves if name.rpartition(".")[2] in _COUNTS]
    moments = [(name, value) for name, value in leaves if name.rpartition(".")[2] not in _COUNTS]
    gradients = [(str(number), parameter.grad) for number, parameter in enumerate(parameters)]
    return {
        WEIGHTS: _together((str(number), value) for number, value in enumerate(weights)),
        MOMENTS: _digest_of(moments),
        COUNTS: _digest_of(counts),
        GRADIENTS: _digest_of(gradients),
        RANDOM: _digest_of(list(_generators())),
    }


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor that several share (a DTensor of FSDP2): a look at the whole would wait for
    the others."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def side_by_side(traces: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """One trace for a step that several processes took together, whatever their order."""
    return {
        kind: _together((trace[kind], "") for trace in traces) if len(traces) > 1 else traces[0][kind]
        for kind in traces[0]
    }


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{name}.{number}")
    else:
        yield name, value


def _digest_of(values: Sequence[tuple[str, Any]]) -> str:
    return _together((name, _value(value)) for name, value in values)


def _value(value: Any) -> str:
    """A tensor by its numbers: whether it is stored as one, and -0.0 for 0.0, makes no difference."""
    if not hasattr(value, "detach"):
        return str(float(value)) if isinstance(value, (bool, int, float)) else type(value).__name__
    from pytest_genmodel.tensors import digest

    tensor: torch.Tensor = own_part(value.detach())
    if tensor.layout != _strided():
        tensor = tensor.to_dense()
    if tensor.numel() == 1:
        return str(float(tensor))
    return digest(tensor + 0.0 if tensor.is_floating_point() else tensor)


def _strided() -> Any:
    import torch

    return torch.strided


def _generators() -> Iterator[tuple[str, Any]]:
    """States of Python's, numpy's and torch's global generators; numpy's only where it is in use."""
    import torch

    yield "torch", torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            yield f"cuda.{number}", state
    yield "python", torch.tensor(random.getstate()[1])
    if numpy := sys.modules.get("numpy"):
        yield "numpy", torch.from_numpy(numpy.random.get_state()[1].astype("int64"))


def _together(items: Any) -> str:
    from pytest_genmodel.tensors.digests import combine

    return combine(items)[:16]
