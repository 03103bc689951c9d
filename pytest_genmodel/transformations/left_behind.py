"""What a live pipeline is made of, before and after: what a transformation leaves behind is told by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.residents import residents

if TYPE_CHECKING:
    from pytest_genmodel.transformations.bench import Bench

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class PipelineState:
    """Tensors (by digest, or by memory for a large model), classes, hooks and plain attributes, each by its place."""

    parts: Mapping[str, str]

    def differences(self, before: PipelineState) -> dict[str, str]:
        """Each place that is not as it was `before`, with what it was and is."""
        names = sorted(self.parts.keys() | before.parts.keys())
        return {
            name: f"{before.parts.get(name, 'nothing')} -> {self.parts.get(name, 'nothing')}"
            for name in names
            if self.parts.get(name) != before.parts.get(name)
        }


def pipeline_state(bench: Bench) -> PipelineState:
    """Take down the state of the bench's pipeline; what a scheduler counts in a call is no part of it."""
    parts: dict[str, str] = {}
    for component, model in bench.models.items():
        for name, part in model.named_modules():
            place = f"{component}.{name}" if name else component
            parts[place] = _class_of(part)
            parts[f"{place}:hooks"] = _hooks(part)
            parts.update({f"{place}:{key}": value for key, value in _plain(part).items()})
        for name, resident in residents(model).items():
            parts[f"{component}.{name}"] = _content(resident.tensor, bench.is_large)
    scheduler = getattr(bench.live, "scheduler", None)
    if scheduler is not None:
        parts["scheduler"] = _class_of(scheduler)
        parts["scheduler:config"] = repr(sorted(dict(scheduler.config).items(), key=lambda item: item[0]))
    return PipelineState(parts)


def _class_of(part: Any) -> str:
    processor = getattr(part, "processor", None)
    inner = f" with {type(processor).__qualname__}" if processor is not None else ""
    return f"{type(part).__qualname__}{inner}"


def _hooks(part: Any) -> str:
    own = vars(part).get("forward")  # accelerate, taken off, leaves the class's own method there
    replaced = own is not None and getattr(own, "__func__", own) is not type(part).forward
    count = len(part._forward_hooks) + len(part._forward_pre_hooks) + replaced
    return f"{count} hooks" + (" and accelerate's" if hasattr(part, "_hf_hook") else "")


def _plain(part: Any) -> dict[str, str]:
    return {
        key: repr(value)
        for key, value in vars(part).items()
        if isinstance(value, PLAIN) and not key.startswith("__")
    }


def _content(tensor: Any, is_large: bool) -> str:
    from pytest_genmodel.tensors import digest

    if is_large or tensor.is_meta:
        return f"{tensor.dtype} on {tensor.device.type}, changed {tensor._version} times"
    return f"{tensor.dtype} {digest(tensor.cpu())[:12]}"
