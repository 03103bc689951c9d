"""What really lives in a loaded model: every parameter and buffer under every name it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Role(str, Enum):
    """What a resident tensor is to its module."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    TRANSIENT = "non-persistent buffer"
    """Not in the component's own file: a buffer that is made anew, or a factor of an attached adapter."""


@dataclass(frozen=True)
class Resident:
    """A tensor that lives in a model, under one of its names."""

    name: str
    tensor: torch.Tensor
    role: Role
    identity: int

    @property
    def tie(self) -> tuple[int, ...]:
        """Equal for two names of one tensor (tied weights): one object on meta, one memory elsewhere."""
        if self.tensor.is_meta or not self.tensor.numel():
            return (self.identity,)
        return _place(self.tensor)


def residents(module: torch.nn.Module) -> Mapping[str, Resident]:
    """List every tensor of `module`, tied names and non-persistent buffers included, in execution order.

    A layer that wears a LoRA keeps its own name: attaching an adapter renames nothing, it adds factors.
    """
    persistent = set(module.state_dict(keep_vars=True))
    adapted = [f"{name}." for name, part in module.named_modules() if _wears_adapter(part)]
    found = {}

    def add(name: str, tensor: torch.Tensor, role: Role) -> None:
        if layer := next((layer for layer in adapted if name.startswith(layer)), ""):
            inner = name.removeprefix(layer)
            role = role if inner.startswith(_BASE) else Role.TRANSIENT
            name = layer + inner.removeprefix(_BASE)
        found[name] = Resident(name, tensor.detach(), role, id(tensor))

    for name, parameter in module.named_parameters(remove_duplicate=False):
        add(name, parameter, Role.PARAMETER)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        add(name, buffer, Role.BUFFER if name in persistent else Role.TRANSIENT)
    return found


_BASE = "base_layer."


def _wears_adapter(part: torch.nn.Module) -> bool:
    return type(part).__module__.startswith("peft.") and hasattr(part, "base_layer")


def tie_groups(tensors: Mapping[str, Resident]) -> list[tuple[str, ...]]:
    """Group the names that one tensor has; singletons are left out."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for resident in tensors.values():
        groups.setdefault(resident.tie, []).append(resident.name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def on_meta(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of tensors without memory: nothing was ever loaded into them.

    A module that accelerate has offloaded parks its tensors in hooks; those are not missing.
    """
    if any(hasattr(part, "_hf_hook") for part in module.modules()):
        return ()
    return tuple(name for name, resident in residents(module).items() if resident.tensor.is_meta)


def align(module: torch.nn.Module) -> None:
    """Give every tensor memory of its own.

    A memory-mapped file puts tensors at odd addresses; kernels then take other paths, and a sample changes in
    its last bits although every weight is equal. Ties survive: one storage gets one copy.
    """
    copies: dict[tuple[int, ...], torch.Tensor] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_meta or not tensor.numel() or tensor.device.type != "cpu":
            continue
        key = _place(tensor)
        if key not in copies:
            copies[key] = tensor.data.clone()
        tensor.data = copies[key]


def _place(tensor: torch.Tensor) -> tuple[int, ...]:
    """Where the values lie and how they are walked: a view of the same memory transposed is another tensor."""
    return (tensor.data_ptr(), tensor.element_size(), *tensor.shape, *tensor.stride())


def parameter_count(module: torch.nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())
