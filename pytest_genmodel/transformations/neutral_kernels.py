"""Neutral: other kernels for the same sums. The controls (alignment, threads) are of this kind too."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.residents import align, parameter_count
from pytest_genmodel.transformations.adapters import is_large
from pytest_genmodel.transformations.bench import LATENTS, Bench, Look, Observation
from pytest_genmodel.transformations.neutral import Done, NotHereError, neutral

if TYPE_CHECKING:
    import torch

FUSED = ("to_qkv", "to_kv", "to_added_qkv", "to_added_kv", "fused_projections")


@neutral(
    code="GM611",
    cause="a kernel, or the processor that calls it, ignores the mask or the scale, or takes another layout",
)
def math_attention(bench: Bench) -> Iterator[Any]:
    """Attention by torch's plain formula in place of the kernel that the pipeline would take."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield bench.live


@neutral(
    code="GM611",
    cause="a kernel of diffusers' dispatcher ignores the mask or the scale, or takes another layout",
    done=Done.FULL,
)
def attention_backend(bench: Bench) -> Iterator[Any]:
    """`set_attention_backend` of the denoiser: torch's plain attention through diffusers' own dispatcher."""
    denoiser = getattr(bench.live, bench.family.denoiser)
    processors = (getattr(part, "processor", None) for part in denoiser.modules())
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise NotHereError(
            f"the attention of {type(denoiser).__name__} does not ask diffusers for its backend"
        )
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    active = registry._active_backend
    try:
        with quiet():
            denoiser.set_attention_backend("_native_math")
        yield bench.live
    finally:
        with quiet():
            denoiser.reset_attention_backend()
        registry._active_backend = active  # else it stays for every model of the process (docs/neutrality.md)


@neutral(
    cause="the denoiser does something else while it is traced, or something that tracing leaves out",
    done=Done.ASKED,
)
def compiled(bench: Bench) -> Iterator[Any]:
    """The denoiser traced by `torch.compile`, its graph run as it is (backend `eager`)."""
    import torch

    twin = copy.copy(bench.live)
    denoiser = getattr(bench.live, bench.family.denoiser)
    try:
        setattr(twin, bench.family.denoiser, torch.compile(denoiser, backend="eager"))
        yield twin
    finally:
        vars(denoiser).pop("_is_torch_compile", None)
        torch.compiler.reset()


def predicted_with_graph(bench: Bench, name: str, live: Any) -> Observation:
    """Look at the denoiser's prediction and the gradients of its inputs' sum, with a graph as in training."""
    import torch

    from pytest_genmodel.pipelines.denoiser_call import record_call

    own, denoiser = bench.pipeline, getattr(live, bench.family.denoiser)
    if bench.call is None:
        bench.call = record_call(live, bench.family, own.checkpoint, bench.probe, own.placement.device)
    call = bench.call
    weights = [weight for weight in denoiser.parameters() if weight.requires_grad]
    with controlled(call.device, parameter_count(denoiser)), quiet(), torch.enable_grad():
        output = denoiser(*call.arguments, **call.options)[0]
        found = [Look("prediction", LATENTS, output.detach().float().cpu().clone())]
        if not is_large(own) and output.requires_grad:
            gradients = torch.autograd.grad(output.float().square().mean(), weights, allow_unused=True)
            norms = [0.0 if gradient is None else float(gradient.double().norm()) for gradient in gradients]
            found.append(Look("gradients", LATENTS, torch.tensor(norms)))
    return tuple(found)


@neutral(
    code="GM618",
    observe=predicted_with_graph,
    leaves=("_gradient_checkpointing_func",),
    cause="the checkpointed branch calls the block with other arguments than the plain one",
)
def gradient_checkpointing(bench: Bench) -> Iterator[Any]:
    """The denoiser's activations thrown away and computed again: the same prediction, the same gradients."""
    denoiser = getattr(bench.live, bench.family.denoiser)
    if not getattr(denoiser, "_supports_gradient_checkpointing", False):
        raise NotHereError(f"{type(denoiser).__name__} has no gradient checkpointing")
    bench.base(predicted_with_graph)
    denoiser.enable_gradient_checkpointing()
    try:
        yield bench.live
    finally:
        denoiser.disable_gradient_checkpointing()


@neutral(
    cause="the fused projection holds query, key and value in another order, or lacks a bias",
    leaves=FUSED,
)
def fuse_qkv(bench: Bench) -> Iterator[Any]:
    """The denoiser's query, key and value projections joined into one, and taken apart again."""
    denoiser = getattr(bench.live, bench.family.denoiser)
    if not hasattr(denoiser, "fuse_qkv_projections"):
        raise NotHereError(f"{type(denoiser).__name__} does not fuse its projections")
    if getattr(denoiser, "peft_config", None):
        raise NotHereError(
            "the joined layers are made of the base's weights, without the adapter that is attached"
        )
    before = {name: set(part._modules) for name, part in denoiser.named_modules()}
    flags = {
        name: part.fused_projections
        for name, part in denoiser.named_modules()
        if hasattr(part, "fused_projections")
    }
    try:
        with quiet():
            denoiser.fuse_qkv_projections()
    except Exception as error:
        raise NotHereError(f"{type(denoiser).__name__} does not fuse its projections ({error})") from error
    try:
        yield bench.live
    finally:
        with quiet():
            denoiser.unfuse_qkv_projections()
        _take_away(denoiser, before, flags)


def _take_away(denoiser: Any, before: dict[str, set[str]], flags: dict[str, bool]) -> None:
    """Remove the joined layers: diffusers 0.42 puts the processors back and leaves the layers in the model."""
    for name, part in list(denoiser.named_modules()):
        for child in list(part._modules):
            if child in FUSED and child not in before.get(name, set()):
                delattr(part, child)
        if name in flags:
            part.fused_projections = flags[name]


@contextmanager
def odd_addresses(bench: Bench) -> Iterator[Any]:
    """Every tensor copied to an address that no vector unit likes, as a memory-mapped file has them."""
    for model in bench.models.values():
        _misalign(model)
    try:
        yield bench.live
    finally:
        for model in bench.models.values():
            align(model)


def _misalign(model: torch.nn.Module) -> None:
    import torch

    copies: dict[tuple[int, ...], torch.Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_meta or not tensor.numel() or tensor.device.type != "cpu" or not tensor.is_contiguous():
            continue
        place = (tensor.data_ptr(), tensor.element_size(), *tensor.shape)
        if place not in copies:
            room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
            copies[place] = room[1:].view(tensor.shape).copy_(tensor.data)
        tensor.data = copies[place]


@contextmanager
def other_threads(bench: Bench) -> Iterator[Any]:
    """Another number of threads for the sums of each layer; raises NotHereError off the CPU."""
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    if bench.pipeline.placement.device != "cpu":
        raise NotHereError("the layers do not run on the CPU's threads")
    usual = torch.get_num_threads()
    count = OTHER_THREADS if not bench.is_large else max(1, usual // 2) if usual > 1 else 2
    hook = register_module_forward_pre_hook(partial(_have_threads, count))
    try:
        yield bench.live
    finally:
        hook.remove()


@contextmanager
def other_rounding(bench: Bench) -> Iterator[Any]:
    """The output of each layer half a step of a 16-bit dtype away, as a kernel with other sums gives it.

    Raises NotHereError in float32, where the other controls move the sums.
    """
    from torch.nn.modules.module import register_module_forward_hook

    if bench.pipeline.placement.dtype == "float32":
        raise NotHereError("each sum of float32 is rounded far below its layer's output")
    hook = register_module_forward_hook(_rounded_elsewhere)
    try:
        yield bench.live
    finally:
        hook.remove()


def _rounded_elsewhere(module: Any, _: Any, output: Any) -> Any:
    """One step up or down for half of the values, by their own last bits: no bias, and the same each time."""
    import torch

    if not isinstance(module, (torch.nn.Linear, torch.nn.modules.conv._ConvNd)):
        return None
    if not isinstance(output, torch.Tensor) or output.dtype not in (torch.bfloat16, torch.float16):
        return None
    bits = output.view(torch.int16)
    last = bits & 3  # of zero, infinity and the largest number 0 or 3: they stay
    return (bits + (last == 1).to(torch.int16) - (last == 2).to(torch.int16)).view(output.dtype)


OTHER_THREADS = 3
"""For a small model, whose usual number is 1."""


def _have_threads(count: int, *_: Any) -> None:
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
