"""The calls that models make of torch's kernels, judged where they are made against their definition in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_genmodel.tensors.closed_forms import FORMS, Places, rms_norm

if TYPE_CHECKING:
    import torch

LIMITS = {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 4e-2}
"""Error, relative to the largest value, that a kernel may have in a dtype: products are summed in float32 at least
and rounded once, in an order that no standard settles (measured on the CPU, seven tiny families: 1.4e-6 in float32,
8e-4 in float16, 6e-3 in bfloat16)."""
ATTENTION, SAME_SCALE = "scaled_dot_product_attention", 1e-3
SOFT = 10.0
"""How much more attention may be off: rounding of large scores is magnified by the exponential."""
FEW = 3
"""Calls of one kind that are judged in a component, beside each that is larger than those before it."""


@dataclass(frozen=True)
class KernelCall:
    """One call that was judged: the function, the module that made it, and how far it is from its definition."""

    function: str
    component: str
    module: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    error: float
    limit: float

    @property
    def is_wrong(self) -> bool:
        """Whether the error is more than the dtype allows; NaN is."""
        return not self.error <= self.limit

    @property
    def module_path(self) -> str:
        """The module's path in its component; the component itself where that is empty."""
        return self.module or self.component


@dataclass
class Kernels:
    """What was judged, in the order of the calls, and how many calls were seen."""

    judged: list[KernelCall] = field(default_factory=list)
    seen: int = 0
    _stack: list[tuple[str, str, Any]] = field(default_factory=list)
    _known: dict[tuple[Any, ...], tuple[int, int]] = field(default_factory=dict)

    @property
    def wrong(self) -> list[KernelCall]:
        """Those whose output is not what their definition says."""
        return [call for call in self.judged if call.is_wrong]

    @property
    def functions(self) -> dict[str, int]:
        """Number of judged calls, by function."""
        names = [call.function for call in self.judged]
        return {name: names.count(name) for name in sorted(set(names))}

    @property
    def place(self) -> tuple[str, str]:
        """Component and path of the module that is running; empty outside of any."""
        return self._stack[-1][:2] if self._stack else ("", "")

    @property
    def module(self) -> Any:
        """The module that is running; None outside of any."""
        return self._stack[-1][2] if self._stack else None

    def wants(self, key: tuple[Any, ...], size: int) -> bool:
        """Whether a call of this kind and size is still to be judged."""
        self.seen += 1
        count, largest = self._known.get(key, (0, 0))
        if count >= FEW and size <= largest:
            return False
        self._known[key] = (count + 1, max(size, largest))
        return True

    def judge(self, name: str, places: Places, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keep the outcome of one call; of inputs that are not finite no definition says what becomes."""
        from pytest_genmodel.tensors.dtypes import dtype_name

        if not all(bool(value.isfinite().all()) for value in inputs if hasattr(value, "isfinite")):
            return

        dtype = dtype_name(output.dtype)
        limit = LIMITS.get(dtype, LIMITS["bfloat16"]) * places.amplified
        if name == ATTENTION:
            limit = min(SOFT * limit, 0.1)
        shapes = tuple(tuple(value.shape) for value in inputs if hasattr(value, "shape"))
        self.judged.append(KernelCall(name, *self.place, shapes, dtype, places.error(output), limit))


@contextmanager
def watched_kernels(components: Mapping[str, Any]) -> Iterator[Kernels]:
    """Judge what `components` (modules, by name) compute while this lasts; what is computed stays the same.

    The functions of torch.nn.functional are wrapped in this process, and put back.
    """
    import torch
    import torch.nn.functional as functional

    kernels = Kernels()
    with ExitStack() as stack:
        for component, model in components.items():
            for path, module in model.named_modules():
                _follow(stack, kernels, module, component, path)
        for name, form in FORMS.items():
            original = getattr(functional, name, None)
            if original is None:
                continue  # an older torch
            stack.callback(setattr, functional, name, original)
            setattr(functional, name, _judging(kernels, name, original, form))
        with torch.no_grad():
            yield kernels


def _follow(stack: ExitStack, kernels: Kernels, module: Any, component: str, path: str) -> None:
    """Know which module is running; a norm that is written out by hand is judged as a whole."""
    by_hand = _is_rms_norm(module)
    waiting: list[Any] = []

    def enter(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        kernels._stack.append((component, path, module))
        if by_hand:
            data = next((value for value in (*arguments, *options.values()) if hasattr(value, "shape")), None)
            key = (component, "rms_norm", type(module).__name__)
            wanted = data is not None and kernels.wants(key, data.numel())
            waiting.append(_hand_written(module, data) if wanted else None)

    def leave(_: Any, arguments: Any, output: Any) -> None:
        if by_hand and waiting and (held := waiting.pop()) is not None and hasattr(output, "shape"):
            kernels.judge("rms_norm", held, arguments, output)
        if kernels._stack:
            kernels._stack.pop()

    stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
    stack.callback(module.register_forward_hook(leave, always_call=True).remove)


_BY_HAND = ("RMSNorm", "T5LayerNorm", "UMT5LayerNorm", "LlamaRMSNorm")


def _is_rms_norm(module: Any) -> bool:
    """A norm over the last axis with a weight and an eps of its own, and nothing else."""
    if type(module).__name__ not in _BY_HAND or getattr(module, "bias", None) is not None:
        return False
    weight = getattr(module, "weight", None)
    return (weight is None or weight.ndim == 1) and _eps(module) is not None


def _eps(module: Any) -> Any:
    return getattr(module, "eps", None) or getattr(module, "variance_epsilon", None)


def _hand_written(module: Any, data: Any) -> Places | None:
    return rms_norm(data, (data.shape[-1],), getattr(module, "weight", None), _eps(module))


def _judging(
    kernels: Kernels, name: str, original: Callable[..., Any], form: Callable[..., Places | None]
) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        places = None
        if kernels._stack and _is_wanted(kernels, name, arguments, options):
            places = form(*arguments, **options)
        output = original(*arguments, **options)
        if places is not None:
            kernels.judge(name, places, arguments, output)
            if name == ATTENTION and (off := _scale_error(kernels.module, options.get("scale"))):
                kernels.judged[-1] = replace(kernels.judged[-1], error=off)
        return output

    return call


def _scale_error(module: Any, scale: float | None) -> float:
    """How far, relative, a scale that is asked for is from the layer's own; 0 where either is not known."""
    own = next((getattr(module, name, None) for name in ("scale", "scaling") if hasattr(module, name)), None)
    if not isinstance(own, float) or not isinstance(scale, float) or own == 0:
        return 0.0
    off = abs(scale / own - 1)
    return off if off > SAME_SCALE else 0.0


def _is_wanted(kernels: Kernels, name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    tensors = [value for value in (*arguments, *options.values()) if hasattr(value, "shape")]
    if not tensors or not all(
        value.dtype.is_floating_point or value.dtype.is_complex for value in tensors[:2]
    ):
        return False
    if any(type(value).__name__ not in ("Tensor", "Parameter", "Buffer") for value in tensors[:2]):
        return False  # a packed or distributed tensor has arithmetic of its own
    weight = tensors[1] if len(tensors) > 1 else None
    kernel = tuple(weight.shape[2:]) if name.startswith("conv") and weight is not None else ()
    settings = tuple(
        sorted((key, str(value)) for key, value in options.items() if not hasattr(value, "shape"))
    )
    key = (kernels.place[0], name, str(tensors[0].dtype), kernel, len(tensors), settings)
    return kernels.wants(key, tensors[0].numel())
