"""One call of the denoiser, as a sample makes it: its inputs, to be given again to any state of the model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.pipelines.effective import schedule
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.recording import Argument, arguments_of, innermost
from pytest_genmodel.pipelines.residents import parameter_count

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.checkpoints.checkpoint import Checkpoint
    from pytest_genmodel.pipelines.families.base import Family
    from pytest_genmodel.pipelines.probe import Probe


class NoCallError(GenmodelError):
    """The pipeline came to its end and never called its denoiser."""


class _RecordedError(Exception):
    """Ends the pipeline's run once the inputs are known."""


@dataclass(frozen=True, eq=False)
class DenoiserCall:
    """The arguments of a denoiser's call in the first step of a sample, on `device`."""

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    device: str

    def run(self, denoiser: Any) -> torch.Tensor:
        """Give the denoiser's prediction for these inputs: float32, on the CPU, in the denoiser's own layout."""
        import torch

        with controlled(self.device, parameter_count(denoiser)), quiet(), torch.no_grad():
            output = denoiser(*self.arguments, **self.options)
        prediction: torch.Tensor = output[0]
        return prediction.detach().float().cpu().clone()

    def told(self, denoiser: Any) -> Mapping[str, Argument]:
        """Every argument by its path, tensors as copies on the CPU; see `recording.Call`."""
        signature = inspect.signature(type(innermost(denoiser)).forward)
        return arguments_of(signature.bind(denoiser, *self.arguments, **self.options))


def record_call(
    pipeline: Any, family: Family, checkpoint: Checkpoint, probe: Probe, device: str, *, after: int = 0
) -> DenoiserCall:
    """Start a sample of the live diffusers pipeline and break it off where it first calls its denoiser.

    Prompt and image are encoded, nothing is denoised or decoded. The global random state is put back. With `after`
    so many calls are made first.

    Raises:
        NoCallError: the denoiser was never called.
        StepsRefusedError: the schedule has no numbers.
    """
    import torch

    denoiser = getattr(pipeline, family.denoiser)
    found: list[DenoiserCall] = []

    left = after

    def record(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        nonlocal left
        if left > 0:
            left -= 1
            return
        found.append(DenoiserCall(arguments, options, device))
        raise _RecordedError

    pipeline.set_progress_bar_config(disable=True)
    models = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    size = sum(parameter_count(model) for model in models)
    hook = denoiser.register_forward_pre_hook(record, with_kwargs=True)
    try:
        with controlled(device, size), quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(probe.seed)
            pipeline(
                **family.call_arguments(checkpoint, probe),
                generator=torch.Generator("cpu").manual_seed(probe.seed),
                output_type="pt",
            )
    except _RecordedError:
        pass
    finally:
        hook.remove()
    if not found:
        raise NoCallError(f"the pipeline made a sample without calling its {family.denoiser}")
    timestep = found[0].options.get("timestep")
    if isinstance(timestep, torch.Tensor) and not bool(timestep.isfinite().all()):
        schedule(pipeline.scheduler, probe.steps)  # which says so, where the scheduler is at fault
    return found[0]
