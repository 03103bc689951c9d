"""One call of each component as a sample makes it: what went in and what came out, to be given to another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.recording import Call, Recorder, recorded_calls
from pytest_genmodel.pipelines.replaced import Original, replaced
from pytest_genmodel.pipelines.residents import parameter_count
from pytest_genmodel.pipelines.sampling import run_pipeline

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe

METHODS = {"vae": ("encode", "decode")}
"""Components that are called by other methods than `forward`."""


@dataclass(frozen=True, eq=False)
class ComponentCall:
    """The first call of a component's `method` in a sample; tensors are copies on the CPU."""

    component: str
    method: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    output: torch.Tensor

    @property
    def name(self) -> str:
        """`vae.encode`, `text_encoder`."""
        return self.component if self.method == "forward" else f"{self.component}.{self.method}"

    def replayed(self, pipeline: Pipeline) -> torch.Tensor:
        """Give the same input to another pipeline's component; its output, on the CPU.

        Whatever the component raises for an input that it does not take is raised.
        """
        import torch

        part = pipeline.component(self.component)
        device = pipeline.placement.device
        call = part if self.method == "forward" else getattr(part, self.method)
        with controlled(device, parameter_count(part)), quiet(), torch.no_grad():
            result = call(*_moved(self.arguments, device), **_moved(dict(self.options), device))
            return _output(result)


@dataclass(frozen=True, eq=False)
class RecordedSample:
    """What a sample gave its denoiser in its first and its last call, and the first call of each component."""

    calls: tuple[Call, ...]
    components: tuple[ComponentCall, ...]


def record_sample(pipeline: Pipeline, probe: Probe) -> RecordedSample:
    """Sample, and record; costs one run of the pipeline, which is remembered as any sample is."""
    pipeline.require_backed()
    live, family = pipeline.diffusers, pipeline.family
    denoisers = family.live_denoisers(live)
    recorder = Recorder(2, keep_last=True)
    with recorded_calls(denoisers, recorder), _watched(live, denoisers) as components:
        pipeline.sample(probe)
        if not recorder.calls:  # the sample was remembered
            device = pipeline.placement.device
            run_pipeline(live, family, pipeline.checkpoint, probe, device, pipeline.progress)
    return RecordedSample(tuple(recorder.calls), tuple(components.values()))


@contextmanager
def _watched(live: Any, denoisers: Mapping[str, Any]) -> Iterator[dict[str, ComponentCall]]:
    """Keep the first call of each model; everything is taken off again."""
    import torch

    seen: dict[str, ComponentCall] = {}
    with ExitStack() as stack:
        for name, part in live.components.items():
            if not isinstance(part, torch.nn.Module):
                continue
            methods = METHODS.get(name, ("forward",))
            if methods == ("forward",):
                hook = part.register_forward_hook(_kept(seen, name), with_kwargs=True)
                stack.callback(hook.remove)
            else:
                for method in methods:
                    stack.enter_context(_wrapped(part, name, method, seen))
        yield seen


def _kept(seen: dict[str, ComponentCall], name: str) -> Callable[..., None]:
    def hook(_: Any, arguments: Any, options: Any, output: Any) -> None:
        if name not in seen:
            seen[name] = ComponentCall(name, "forward", _copied(arguments), _copied(options), _output(output))

    return hook


def _wrapped(
    part: Any, name: str, method: str, seen: dict[str, ComponentCall]
) -> AbstractContextManager[None]:
    def make(call: Original) -> Original:
        def watched(*arguments: Any, **options: Any) -> Any:
            key = f"{name}.{method}"
            inputs = (_copied(arguments), _copied(options)) if key not in seen else None
            result = call(*arguments, **options)
            if inputs is not None:
                seen[key] = ComponentCall(name, method, *inputs, _output(result))
            return result

        return watched

    return replaced(part, method, make)


def _output(result: Any) -> torch.Tensor:
    """The first tensor of what a component returned; of a posterior its mean. A copy on the CPU."""
    import torch

    if hasattr(result, "latent_dist"):
        result = result.latent_dist
    if hasattr(result, "mode") and hasattr(result, "sample") and not isinstance(result, torch.Tensor):
        result = result.mode()
    while not isinstance(result, torch.Tensor):
        values = result.values() if isinstance(result, Mapping) else result
        result = next(value for value in values if value is not None)
        if hasattr(result, "mode") and hasattr(result, "sample") and not isinstance(result, torch.Tensor):
            result = result.mode()
    return result.detach().to("cpu", copy=True)


def _copied(value: Any) -> Any:
    return _mapped(value, lambda tensor: tensor.detach().to("cpu", copy=True))


def _moved(value: Any, device: str) -> Any:
    return _mapped(value, lambda tensor: tensor.to(device))


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_mapped(inner, change) for inner in value)
    if type(value) is dict:
        return {name: _mapped(inner, change) for name, inner in value.items()}
    return value
