"""Every call inside a sample: each module of each component, the VAE's encode and decode, the scheduler's methods.

Hooks and patched methods are taken off again whatever happens; nothing that is computed is changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache, update_wrapper
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pytest_genmodel.pipelines.replaced import Original, replaced

if TYPE_CHECKING:
    import torch

Leaf = tuple[str, "torch.Tensor | str"]
"""What was handed over, by its path: a tensor, or whatever else it was in words."""
FORWARD = "forward"
SCHEDULER = "scheduler"
_SCHEDULER_METHODS = ("set_timesteps", "step", "scale_model_input", "add_noise", "scale_noise")
_MODEL_METHODS = ("encode", "decode")
_TABLES = ("timesteps", "sigmas")
"""What a scheduler's `set_timesteps` leaves behind, which gives nothing back."""
_WRAPPERS = ("base_model.model.", "_orig_mod.", "module.", "_fsdp_wrapped_module.")
_UNIMPORTANT = ("return_dict",)
_DEEPEST = 5


class CallKey(NamedTuple):
    """One call: the component, the module's path in it ("" for the whole), the method, and the how-many-eth it is."""

    component: str
    path: str
    method: str
    number: int

    @property
    def place(self) -> str:
        """What is called, as findings name it: `transformer_blocks.0.attn1.to_q`, `vae.decode`, `scheduler:step`."""
        if self.component == SCHEDULER:
            return f"{SCHEDULER}:{self.method}"
        if self.method != FORWARD:
            return f"{self.component}.{self.method}"
        return self.path or self.component


class Watcher(Protocol):
    """Is told of every call when it begins and when it ends."""

    def enter(self, key: CallKey, given: Callable[[], Iterator[Leaf]]) -> None:
        """A call begins; `given` lists its arguments."""
        ...

    def leave(self, key: CallKey, gave: Callable[[], Iterator[Leaf]]) -> None:
        """A call ends; `gave` lists what it gives back."""
        ...


class StopWatchingError(Exception):
    """Raised by a watcher that has seen enough: ends the pipeline's call from inside."""


@contextmanager
def watched(
    live: Any,
    watcher: Watcher,
    only: Collection[tuple[str, str, str]] | None = None,
    skip: Collection[str] = (),
) -> Iterator[None]:
    """Tell `watcher` of every call of a live diffusers pipeline while this context lasts.

    Args:
        live: the pipeline.
        watcher: what is told.
        only: the (component, path, method) triples to watch; None for all.
        skip: components of which only the whole is watched.
    """
    import torch

    counts: dict[tuple[str, str, str], int] = {}
    seen: set[int] = set()

    def counted(place: tuple[str, str, str]) -> CallKey:
        counts[place] = counts.get(place, 0) + 1
        return CallKey(*place, counts[place])

    with ExitStack() as stack:
        for component, part in live.components.items():
            if component == SCHEDULER:
                for method in _SCHEDULER_METHODS:
                    place = (component, "", method)
                    if hasattr(part, method) and (only is None or place in only):
                        stack.enter_context(_patched(part, place, watcher, counted))
            if not isinstance(part, torch.nn.Module):
                continue
            for method in _MODEL_METHODS:
                place = (component, "", method)
                if callable(getattr(part, method, None)) and (only is None or place in only):
                    stack.enter_context(_patched(part, place, watcher, counted))
            for name, module in part.named_modules():
                place = (component, bare(name), FORWARD)
                if id(module) in seen or (only is not None and place not in only):
                    continue
                if place[1] and component in skip:
                    continue
                seen.add(id(module))
                _hook(stack, module, place, watcher, counted)
        yield


def _hook(
    stack: ExitStack,
    module: torch.nn.Module,
    place: tuple[str, str, str],
    watcher: Watcher,
    counted: Callable[[tuple[str, str, str]], CallKey],
) -> None:
    open_calls: list[CallKey] = []

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        key = counted(place)
        open_calls.append(key)
        watcher.enter(key, lambda: arguments(parameters_of(module.__class__), args, kwargs))

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        watcher.leave(open_calls.pop(), lambda: leaves("output", output))

    stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)


def _patched(
    part: Any,
    place: tuple[str, str, str],
    watcher: Watcher,
    counted: Callable[[tuple[str, str, str]], CallKey],
) -> AbstractContextManager[None]:
    method = place[2]
    return replaced(
        part, method, lambda call: _WatchedMethod(part, method, call, watcher, lambda: counted(place))
    )


class _WatchedMethod:
    """A method of one object, with a watcher told of its calls; a copy of the object gets the method itself back."""

    def __init__(
        self, owner: Any, name: str, call: Original, watcher: Watcher, counted: Callable[[], CallKey]
    ) -> None:
        self._owner, self._name, self._watcher, self._counted = owner, name, watcher, counted
        self._call = call
        self._parameters = tuple(inspect.signature(self._call).parameters)
        update_wrapper(self, self._call)  # pipelines look at the signature of a scheduler's methods

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key, owner = self._counted(), self._owner
        self._watcher.enter(key, lambda: arguments(self._parameters, args, kwargs))
        result = self._call(*args, **kwargs)
        given = {name: getattr(owner, name, None) for name in _TABLES} if result is None else result
        self._watcher.leave(key, lambda: leaves("output", given))
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = memo.get(id(self._owner), self._owner)  # LTX-2 copies its scheduler in every call
        return getattr(type(twin), self._name).__get__(twin)


@lru_cache(maxsize=1024)
def parameters_of(cls: type) -> tuple[str, ...]:
    """Names of the parameters of a module class's forward, but for self."""
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]  # type: ignore[attr-defined]
    return tuple(one.name for one in parameters if one.kind is not one.VAR_POSITIONAL)


def arguments(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Leaf]:
    """What a call was given, in the order in which it was given, under the names of its parameters."""
    for place, value in enumerate(args):
        yield from leaves(names[place] if place < len(names) else f"args[{place}]", value)
    for name, value in kwargs.items():
        if name not in _UNIMPORTANT:
            yield from leaves(name, value)


def leaves(path: str, value: Any, depth: int = 0) -> Iterator[Leaf]:
    """The tensors in whatever was handed over, by their paths; plain values as text, anything else as its class."""
    import torch

    if isinstance(value, torch.Tensor):
        yield path, value
    elif value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        yield path, repr(value)
    elif depth >= _DEEPEST:
        yield path, type(value).__name__
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(f"{path}[{key}]", inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from leaves(f"{path}[{place}]", inner, depth + 1)
    else:
        held = getattr(value, "__dict__", None)
        tensors = {name: one for name, one in (held or {}).items() if isinstance(one, torch.Tensor)}
        yield path, type(value).__name__
        for name, inner in tensors.items():
            yield f"{path}.{name}", inner


def bare(path: str) -> str:
    """The module's path without what wrappers put before it (PEFT, torch.compile, distributed ones)."""
    before = None
    while before != path:
        before = path
        for prefix in _WRAPPERS:
            path = path.removeprefix(prefix)
    return "" if f"{path}." in _WRAPPERS or path == "base_model" else path
