"""One short run of a pipeline, seen at every door: what goes into and comes out of VAE, denoiser and scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.kernels import Kernels, watched_kernels
from pytest_genmodel.pipelines.recording import Call, arguments_of, innermost
from pytest_genmodel.pipelines.replaced import Original, replaced
from pytest_genmodel.pipelines.sampling import Sample, run_pipeline

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.pipeline import Pipeline
    from pytest_genmodel.pipelines.probe import Probe

STEPS = 2
"""Of a run: the least that tells one step from another."""


@dataclass(frozen=True, eq=False)
class Denoised:
    """One call of a denoiser: what it was given, and its prediction (CPU). `step` counts the scheduler's from 0."""

    call: Call
    prediction: torch.Tensor
    step: int


@dataclass(frozen=True, eq=False)
class Stepped:
    """One step of the scheduler: the prediction and the timestep it was given (CPU)."""

    prediction: torch.Tensor
    timestep: float


@dataclass(frozen=True, eq=False)
class RotaryCall:
    """One call of a module of positions: the component, the module, what it was given, and its tables."""

    component: str
    module: str
    arguments: Mapping[str, Any]
    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(frozen=True, eq=False)
class Embedded:
    """One call of a module of sinusoidal time embeddings: its settings, what it was given, and what it gave."""

    component: str
    module: str
    settings: Mapping[str, Any]
    timesteps: torch.Tensor
    made: torch.Tensor


@dataclass(eq=False)
class ObservedRun:
    """What was seen, in the order in which it happened; all tensors are copies on the CPU.

    `encoded` and `decoded` are what the VAE was given, `taken` the latents that were taken from what it made of the
    first (drawn or not), `made` the pictures that it made of the second. `drawn` is what torch.randn gave.
    """

    probe: Probe
    sample: Sample | None = None
    drawn: list[torch.Tensor] = field(default_factory=list)
    encoded: list[torch.Tensor] = field(default_factory=list)
    taken: list[torch.Tensor] = field(default_factory=list)
    denoised: list[Denoised] = field(default_factory=list)
    steps: list[Stepped] = field(default_factory=list)
    rotary: list[RotaryCall] = field(default_factory=list)
    embedded: list[Embedded] = field(default_factory=list)
    decoded: list[torch.Tensor] = field(default_factory=list)
    made: list[torch.Tensor] = field(default_factory=list)
    frames_decoded: int = 0
    kernels: Kernels = field(default_factory=Kernels)


def observe_run(pipeline: Pipeline, probe: Probe) -> ObservedRun:
    """Run the pipeline for `STEPS` steps and watch; nothing that it computes is changed, nothing is left behind.

    Costs one short sample and, for each call of a kernel that is judged, a few values in float64.
    """
    import torch

    pipeline.require_backed()
    live, family = pipeline.diffusers, pipeline.family
    run = ObservedRun(probe.but(steps=STEPS))
    models = {name: part for name, part in live.components.items() if isinstance(part, torch.nn.Module)}
    with ExitStack() as stack:
        for name, model in family.live_denoisers(live).items():
            _watch_denoiser(stack, run, name, model)
        for name, model in models.items():
            _watch_embeddings(stack, run, name, model)
            _watch_rotary(stack, run, name, model)
        if (vae := getattr(live, "vae", None)) is not None:
            stack.enter_context(_wrapped(vae, "encode", lambda given, made: _encoded(run, given, made)))
            stack.enter_context(_wrapped(vae, "decode", lambda given, made: _decoded(run, given, made)))
        stack.enter_context(_steps(live.scheduler, run))
        stack.enter_context(_draws(run))
        run.kernels = stack.enter_context(watched_kernels(models))
        device = pipeline.placement.device
        run.sample = run_pipeline(live, family, pipeline.checkpoint, run.probe, device, pipeline.progress)
    return run


def _watch_denoiser(stack: ExitStack, run: ObservedRun, name: str, model: Any) -> None:
    signature = inspect.signature(type(innermost(model)).forward)
    told: list[Call] = []

    def before(module: Any, arguments: Any, options: Any) -> None:
        told.append(
            Call(name, len(run.denoised), arguments_of(signature.bind(module, *arguments, **options)))
        )

    def after(_: Any, arguments: Any, output: Any) -> None:
        run.denoised.append(Denoised(told.pop(), _copy(output[0]), len(run.steps)))

    stack.callback(model.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(model.register_forward_hook(after).remove)


def _watch_rotary(stack: ExitStack, run: ObservedRun, name: str, model: Any) -> None:
    for path, part in innermost(model).named_modules():
        if "RotaryPosEmbed" in type(part).__name__:
            stack.callback(
                part.register_forward_hook(_rotary(run, name, path, part), with_kwargs=True).remove
            )


def _rotary(run: ObservedRun, name: str, path: str, part: Any) -> Callable[..., None]:
    signature = inspect.signature(type(part).forward)

    def after(module: Any, arguments: Any, options: Any, output: Any) -> None:
        if not (isinstance(output, (tuple, list)) and len(output) == 2):
            return
        bound = signature.bind(module, *arguments, **options).arguments
        given = {
            key: tuple(value.shape) if key == "hidden_states" else _copy(value)
            for key, value in bound.items()
            if key != "self"
        }
        run.rotary.append(RotaryCall(name, path, given, _copy(output[0]), _copy(output[1])))

    return after


def _watch_embeddings(stack: ExitStack, run: ObservedRun, name: str, model: Any) -> None:
    for path, part in model.named_modules():
        if type(part).__name__ == "Timesteps" and hasattr(part, "downscale_freq_shift"):
            settings = {
                key: getattr(part, key, default)
                for key, default in (
                    ("num_channels", None),
                    ("flip_sin_to_cos", True),
                    ("downscale_freq_shift", 0.0),
                    ("scale", 1),
                )
            }

            def after(
                _: Any, arguments: Any, output: Any, path: str = path, settings: Any = settings
            ) -> None:
                if arguments:
                    run.embedded.append(Embedded(name, path, settings, _copy(arguments[0]), _copy(output)))

            stack.callback(part.register_forward_hook(after).remove)


def _encoded(run: ObservedRun, given: Any, made: Any) -> None:
    run.encoded.append(_copy(given))
    posterior = made[0] if isinstance(made, tuple) else getattr(made, "latent_dist", None)
    if posterior is None or not hasattr(posterior, "mode"):
        if (latents := getattr(made, "latent", posterior)) is not None:
            run.taken.append(_copy(latents))
        return
    for name in ("sample", "mode"):  # of this posterior alone, which goes with the call
        setattr(posterior, name, _noting(run.taken, getattr(posterior, name)))


def _noting(found: list[torch.Tensor], call: Original) -> Original:
    def noted(*arguments: Any, **options: Any) -> Any:
        result = call(*arguments, **options)
        found.append(_copy(result))
        return result

    return noted


def _draws(run: ObservedRun) -> AbstractContextManager[None]:
    """Watch what is drawn from the standard normal distribution."""
    import torch

    return replaced(torch, "randn", lambda call: _noting(run.drawn, call))


def _decoded(run: ObservedRun, given: Any, made: Any) -> None:
    run.decoded.append(_copy(given))
    sample = made[0] if isinstance(made, tuple) else made.sample
    run.made.append(_copy(sample))
    run.frames_decoded += sample.shape[2] if sample.ndim == 5 else len(sample)


def _wrapped(part: Any, method: str, seen: Callable[[Any, Any], None]) -> AbstractContextManager[None]:
    def make(call: Original) -> Original:
        def watched(*arguments: Any, **options: Any) -> Any:
            given = arguments[0] if arguments else next(iter(options.values()))
            result = call(*arguments, **options)
            seen(given, result)
            return result

        return watched

    return replaced(part, method, make)


def _steps(scheduler: Any, run: ObservedRun) -> AbstractContextManager[None]:
    """Watch the class: some pipelines work with copies of their scheduler."""

    def make(step: Original) -> Original:
        signature = inspect.signature(step)

        def watched(self: Any, *arguments: Any, **options: Any) -> Any:
            bound = signature.bind(self, *arguments, **options).arguments
            prediction, timestep = bound.get("model_output"), bound.get("timestep")
            if hasattr(prediction, "shape") and timestep is not None:
                run.steps.append(Stepped(_copy(prediction), float(timestep)))
            return step(self, *arguments, **options)

        return watched

    return replaced(type(scheduler), "step", make)


def _copy(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if hasattr(value, "detach") else value
