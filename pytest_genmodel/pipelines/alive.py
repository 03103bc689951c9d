"""Which tensors of a live model take part in what it computes: those that a gradient reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.component_calls import ComponentCall


def dead_tensors(model: Any, loss: Callable[[], torch.Tensor]) -> tuple[str, ...]:
    """Names of parameters and stored float buffers of which no value has any influence on `loss`.

    One forward and one backward pass; a gradient is looked at and let go of as soon as it is there, so that no second
    copy of the model is needed. What the model was (values, flags, gradients) it is again afterwards.

    Args:
        model: a torch module; adapters' factors are left out.
        loss: runs the model with gradients and gives a scalar.
    """
    import torch

    reached: set[str] = set()
    with _watched(model, reached) as names, torch.enable_grad():
        value = loss()
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
    return tuple(sorted(names - reached))


@contextmanager
def _watched(model: Any, reached: set[str]) -> Iterator[set[str]]:

    stored = set(model.state_dict())
    tensors = {
        name: tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if name in stored and tensor.is_floating_point() and ".lora_" not in name
    }
    before = {name: (tensor.requires_grad, tensor.grad) for name, tensor in tensors.items()}
    handles = []

    def look(name: str) -> Callable[[torch.Tensor], None]:
        def seen(tensor: torch.Tensor) -> None:
            if tensor.grad is not None and bool(tensor.grad.any()):
                reached.add(name)
            tensor.grad = None

        return seen

    try:
        for name, tensor in tensors.items():
            tensor.grad = None
            tensor.requires_grad_(True)
            handles.append(tensor.register_post_accumulate_grad_hook(look(name)))
        yield set(tensors)
    finally:
        for handle in handles:
            handle.remove()
        for name, tensor in tensors.items():
            flag, gradient = before[name]
            tensor.requires_grad_(flag)
            tensor.grad = gradient


def signed(output: torch.Tensor) -> torch.Tensor:
    """A scalar in which every value of `output` counts, with a weight of its own (so that no symmetry cancels)."""
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    weights = torch.randn(output.shape, generator=generator).to(output.device)
    return (output.float() * weights).mean()


def autoencoder_loss(vae: Any, clip: torch.Tensor) -> torch.Tensor:
    """A scalar that the whole autoencoder has a part in: the posterior of a clip, and what is decoded from its mode.

    Args:
        vae: a diffusers autoencoder of videos, or of pictures (frames are its batch then).
        clip: float (frame, 3, height, width) in [0, 1].
    """
    import inspect

    import torch

    pictures = clip.to(vae.device, vae.dtype) * 2 - 1
    first = next(layer for layer in vae.encoder.modules() if hasattr(layer, "kernel_size"))
    if not isinstance(first, torch.nn.Conv2d):
        pictures = pictures.permute(1, 0, 2, 3).unsqueeze(0)
    encoded = vae.encode(pictures)
    posterior = getattr(encoded, "latent_dist", None)
    latents = encoded.latent if posterior is None else posterior.mode()
    more = {"num_frames": len(clip)} if "num_frames" in inspect.signature(vae.decode).parameters else {}
    decoded = vae.decode(latents, **more).sample
    return signed(latents if posterior is None else posterior.parameters) + signed(decoded)


def call_loss(model: Any, call: ComponentCall) -> torch.Tensor:
    """A scalar that everything a component puts out for a recorded input has a part in, each layer's states too."""
    import torch

    device = next(model.parameters()).device
    given = [_on(value, device) for value in call.arguments]
    result = model(*given, **{name: _on(value, device) for name, value in call.options.items()})
    return torch.stack([signed(tensor) for tensor in _tensors(result)]).sum()


def _on(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "to") else value


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    """Float tensors with a graph, however they are packed."""
    import torch

    if isinstance(result, torch.Tensor):
        if result.requires_grad and result.is_floating_point():
            yield result
        return
    values = result.values() if isinstance(result, Mapping) else result
    if isinstance(values, (list, tuple)) or isinstance(result, Mapping):
        for value in values:
            yield from _tensors(value)
