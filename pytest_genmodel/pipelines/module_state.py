"""What decides what a module answers: its tensors, its settings, its mode, what is hooked into it; as plain data.

Taken of one model and held against another's when that is loaded no more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.effective import runtime_config
from pytest_genmodel.pipelines.watching import SCHEDULER, CallKey, bare
from pytest_genmodel.tensors.fingerprint import Fingerprint, fingerprint

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.pipeline import Pipeline

LARGEST = 1 << 27
"""Elements up to which a tensor is copied; of a larger one the fingerprint says whether it differs, and how far."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_OWN = (
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "_internal_dict",
    "name_or_path",
)
_OF_TOKENIZERS = ("padding_side", "truncation_side", "model_max_length", "vocab_size")


@dataclass(frozen=True, eq=False)
class ModuleState:
    """One module, or one scheduler, without what it computes.

    `tensors` are copies on the CPU by the name within the component, `settings` plain values in words: attributes,
    the training mode, classes of processors, the methods that really run, hooks, and configuration keys.
    """

    class_name: str
    tensors: Mapping[str, torch.Tensor | Fingerprint] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    is_adapter: bool = False
    """Whether it is a layer that PEFT has wrapped."""
    is_training: bool = False


def state_of(pipeline: Pipeline, call: CallKey, called: Collection[str] = ()) -> ModuleState | None:
    """Give the state of what was called, None where the pipeline has no such module.

    Args:
        pipeline: the live pipeline; nothing is changed.
        call: the call of interest.
        called: paths of modules that were called by themselves: their tensors are theirs.
    """
    part = getattr(pipeline.diffusers, call.component, None)
    if part is None:
        return None
    config = {f"config.{key}": repr(value) for key, value in runtime_config(part).items()}
    if call.component == SCHEDULER:
        tensors = {name: value for name, value in vars(part).items() if hasattr(value, "is_meta")}
        settings = {**dict(_settings(part)), **config, **_method(part, call.method)}
        return ModuleState(type(part).__name__, _copied(tensors), settings)
    module = next((one for name, one in part.named_modules() if bare(name) == call.path), None)
    if module is None:
        return None
    return ModuleState(
        type(module).__name__,
        _copied(dict(_tensors(module, call.path, called))),
        {
            **dict(_settings(module)),
            **(config if not call.path else {}),
            **_method(module, call.method),
            **_hooked(module),
        },
        is_adapter=type(module).__module__.startswith("peft."),
        is_training=bool(module.training),
    )


def settings_of_pipeline(pipeline: Pipeline) -> dict[str, str]:
    """What the pipeline's own code goes by: its arguments and attributes, and every component's configuration."""
    live = pipeline.diffusers
    found = {
        f"pipeline: {name}": repr(value) for name, value in vars(live).items() if _is_public(name, value)
    }
    found |= {f"pipeline: {key}": repr(value) for key, value in _arguments(pipeline).items()}
    found |= {f"pipeline: {name}": value for name, value in _method(live, "__call__").items()}
    for name, part in live.components.items():
        if part is None:
            continue
        found[f"{name}: class"] = type(part).__name__
        found |= {f"{name}: {key}": repr(value) for key, value in runtime_config(part).items()}
        if "tokenizer" in name:
            values = {key: getattr(part, key, None) for key in _OF_TOKENIZERS}
            found |= {f"{name}: {key}": repr(value) for key, value in values.items()}
        elif "processor" in name or "extractor" in name:
            found |= {f"{name}: {key}": value for key, value in _settings(part) if key[0] != "_"}
    return found


def _is_public(name: str, value: Any) -> bool:
    return not name.startswith("_") and _is_plain(value)


def _arguments(pipeline: Pipeline) -> Mapping[str, Any]:
    return dict(sorted(pipeline.checkpoint.pipeline_arguments.items()))


def _tensors(
    module: torch.nn.Module, path: str, called: Collection[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The module's own tensors, and those of parts that nobody called: what the module's code used itself."""
    theirs: set[str] = set()  # of parts that were called, and all that is below them; parents come first
    for name, part in module.named_modules():
        whole = ".".join(filter(None, (path, name)))
        if name and (whole in called or whole.rpartition(".")[0] in theirs):
            theirs.add(whole)
            continue
        for tensor_name, tensor in (
            *part.named_parameters(recurse=False),
            *part.named_buffers(recurse=False),
        ):
            yield ".".join(filter(None, (whole, tensor_name))), tensor


def _copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor | Fingerprint]:
    return {
        name: fingerprint(tensor)
        if tensor.is_meta or tensor.numel() > LARGEST
        else tensor.detach().to("cpu", copy=True)
        for name, tensor in tensors.items()
    }


def _settings(owner: Any, before: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Attributes that hold a plain value; of an object its class, what it calls, and its plain values."""
    for name, value in vars(owner).items():
        if name in _OWN or name in _HOOKS or name.startswith("__"):
            continue
        if name.startswith("_") and not _is_plain(value):
            continue
        yield from _setting(f"{before}{name}", value, depth)


def _setting(name: str, value: Any, depth: int) -> Iterator[tuple[str, str]]:
    if _is_plain(value):
        yield name, repr(value)
    elif isinstance(value, Mapping) and len(value) <= 32 and all(map(_is_plain, value.values())):
        yield from ((f"{name}[{key}]", repr(one)) for key, one in value.items())
    elif hasattr(value, "is_meta") or hasattr(value, "named_modules") or isinstance(value, type):
        return
    elif hasattr(value, "__qualname__") and callable(value):
        yield name, _qualified(value)
    elif hasattr(value, "__dict__") and depth < 1 and not hasattr(value, "to_dict"):
        yield name, type(value).__qualname__
        if callable(value):
            yield from _method(value, "__call__", f"{name}.").items()
        yield from _settings(value, f"{name}.", depth + 1)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) <= 16 and all(map(_is_plain, value))
    import torch

    return value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))


def _method(owner: Any, name: str, before: str = "") -> dict[str, str]:
    """Which function really runs: an instance may have one of its own, and a class may have been patched."""
    function: Callable[..., Any] | None = vars(owner).get(name) or getattr(type(owner), name, None)
    return {} if function is None else {f"{before}{name}()": _qualified(function)}


def _qualified(function: Any) -> str:
    """Module and name of a function as it was written, whatever `functools.wraps` says of it."""
    code = getattr(function, "__code__", None)
    name = getattr(code, "co_qualname", None) or getattr(
        function, "__qualname__", type(function).__qualname__
    )
    module = getattr(function, "__globals__", {}).get("__name__") or getattr(function, "__module__", "")
    return f"{module}.{name}"


def _hooked(module: torch.nn.Module) -> dict[str, str]:
    names = [
        _qualified(hook) for kind in _HOOKS for hook in getattr(module, kind, {}).values() if callable(hook)
    ]
    return {"hooks": ", ".join(names)} if names else {}
