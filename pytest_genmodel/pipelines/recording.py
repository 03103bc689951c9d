"""What a denoiser is given: the arguments of each call, by the names of its forward, without touching them.

A recording is exact: tensors up to `LARGEST_WHOLE` elements are kept bit by bit in their own dtype, larger ones as
digest, moments and every n-th element. Nothing is left behind: hooks and patched methods are taken off again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LARGEST_WHOLE = 1 << 23
"""Elements up to which a tensor is kept whole; of a larger one about so many are kept, evenly spaced."""
UNIMPORTANT = ("return_dict",)
"""Arguments that say how the result is handed over, and nothing about what is computed."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """A tensor as it was given.

    `values` is the tensor itself on the CPU (`whole`), or every n-th of its elements in row-major order. `digest`
    is that of the whole tensor (dtype, shape and values), `mean` and `std` are of all its elements, in float64.
    """

    shape: tuple[int, ...]
    dtype: str
    values: torch.Tensor
    digest: str
    mean: float
    std: float
    whole: bool = True


Argument = Recorded | bool | int | float | str
"""A tensor, a plain value, or the name of a class for whatever else was given."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call: `model` names the denoiser, `arguments` holds every value that is not None by its path.

    A path is the parameter's name, with the place in what is nested: `timestep`, `image_rotary_emb[0]`,
    `added_cond_kwargs[image_embeds]`. `scales` says at which scale each layer's LoRA acted in a training call.
    """

    model: str
    number: int
    arguments: Mapping[str, Argument]
    scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Recorded]:
        """The tensors among the arguments, by path."""
        return {path: value for path, value in self.arguments.items() if isinstance(value, Recorded)}


class _EnoughError(Exception):
    """Ends a pipeline's call from inside: everything that was asked for has been recorded."""


@dataclass
class Recorder:
    """Keeps calls of denoisers in `calls`, at most `most` of them.

    `keep_last` lets the newest take the place of the last one that was kept, so that first and last are there.
    `training_only` passes over calls without gradients: a trainer's own validation. With `stop` the call number
    `most` is recorded and not made: the pipeline is broken off there. `on_call` is given each call that is kept.
    """

    most: int
    keep_last: bool = False
    training_only: bool = False
    stop: bool = False
    on_call: Callable[[Call], None] = field(default=lambda _: None)
    calls: list[Call] = field(default_factory=list)
    count: int = 0

    def take(
        self, name: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Record one call, if it is still wanted; a call that does not fit the signature is passed over."""
        import torch

        if self.training_only and not torch.is_grad_enabled():
            return
        if len(self.calls) >= self.most and not self.keep_last:
            return
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return  # the call itself will say so
        scales = lora_scales(args[0]) if self.training_only else {}
        call = Call(name, self.count, arguments_of(bound), scales)
        self.count += 1
        if len(self.calls) >= self.most:
            self.calls.pop()
        self.calls.append(call)
        self.on_call(call)
        if self.stop and len(self.calls) >= self.most:
            raise _EnoughError


def lora_scales(model: Any) -> dict[str, float]:
    """At which scale the one active LoRA of each layer acts, as PEFT has it; a layer with several is left out."""
    found: dict[str, float] = {}
    for name, part in model.named_modules():
        if not isinstance(getattr(part, "scaling", None), dict) or not hasattr(part, "active_adapters"):
            continue
        active = [one for one in part.active_adapters if one in part.scaling]
        if len(active) == 1:
            found[name] = float(part.scaling[active[0]])
    return found


def innermost(model: Any) -> Any:
    """Give the model itself where PEFT, torch.compile or a distributed wrapper stand around it."""
    seen: set[int] = set()
    while id(model) not in seen:
        seen.add(id(model))
        parts = getattr(model, "_modules", {})
        if "_orig_mod" in parts:
            model = parts["_orig_mod"]
        elif "base_model" in parts and hasattr(model, "peft_config"):
            model = model.get_base_model()
        elif "module" in parts and len(parts) == 1:
            model = parts["module"]
    return model


@contextmanager
def recorded_calls(models: Mapping[str, Any], recorder: Recorder) -> Iterator[Recorder]:
    """Record what `models` (by name) are called with while this context lasts.

    The hook sits on the object that is called, wrapper included, where nothing compiled sees it; names come from
    the innermost model's forward.
    """
    handles = []
    for name, model in models.items():
        signature = inspect.signature(type(innermost(model)).forward)

        def hook(
            module: Any, args: Any, kwargs: Any, *, name: str = name, signature: Any = signature
        ) -> None:
            recorder.take(name, signature, (module, *args), kwargs)

        handles.append(model.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def watch_class(cls: Any, recorder: Recorder) -> Callable[[], None]:
    """Record every call of any model of class `cls` in this process; gives what takes the watch off again.

    For a model that is not there yet: the forward of the class is wrapped, so that PEFT, accelerate and
    distributed wrappers, which call it in the end, need not be known. Code that is being compiled is left alone.
    """
    own = cls.__dict__.get("forward")
    inherited = cls.forward
    signature = inspect.signature(inherited)

    @functools.wraps(inherited)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        if not torch.compiler.is_compiling():
            recorder.take(cls.__name__, signature, (self, *args), kwargs)
        return inherited(self, *args, **kwargs)

    cls.forward = forward

    def restore() -> None:
        if own is None:
            del cls.forward
        else:
            cls.forward = own

    return restore


def record_pipeline(
    pipeline: Any, models: Mapping[str, Any], recorder: Recorder, run: Callable[[], Any]
) -> Any:
    """Call `run`, which calls the live diffusers `pipeline`, and record; None where it was broken off as asked."""
    with recorded_calls(models, recorder):
        try:
            return run()
        except _EnoughError:
            pipeline.maybe_free_model_hooks()
            return None


def arguments_of(bound: inspect.BoundArguments) -> dict[str, Argument]:
    """The values of a bound call by path, the model itself and None left out."""
    bound.apply_defaults()
    found: dict[str, Argument] = {}
    for name, parameter in list(bound.signature.parameters.items())[1:]:
        value = bound.arguments.get(name)
        if name in UNIMPORTANT:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            for key, inner in dict(value or {}).items():
                found.update(_leaves(key, inner))
        else:
            found.update(_leaves(name, value))
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Argument]]:
    import torch

    if value is None:
        return
    if isinstance(value, torch.Tensor):
        yield path, kept(value)
    elif isinstance(value, (bool, int, float, str)):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}[{key}]", inner)
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from _leaves(f"{path}[{place}]", inner)
    else:
        yield path, type(value).__name__


def kept(tensor: torch.Tensor) -> Recorded:
    """Record one tensor: a copy on the CPU, so that what is written into it later does not reach the recording."""
    import torch

    from pytest_genmodel.tensors import digest
    from pytest_genmodel.tensors.dtypes import dtype_name

    with torch.no_grad():
        plain = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())  # strides of its own
        wide = plain.real if plain.is_complex() else plain
        wide = wide.to(torch.float64).flatten()
        mean = float(wide.mean()) if wide.numel() else 0.0
        std = float(wide.std(unbiased=False)) if wide.numel() else 0.0
        name = digest(plain)
        whole = plain.numel() <= LARGEST_WHOLE
        if not whole:
            plain = plain.flatten()[:: -(-plain.numel() // LARGEST_WHOLE)].clone()
    return Recorded(tuple(tensor.shape), dtype_name(tensor.dtype), plain, name, mean, std, whole)
