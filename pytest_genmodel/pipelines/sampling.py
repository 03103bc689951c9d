"""Seeded samples, each computed once in a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.progress import Progress
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.pipelines.effective import StepsRefusedError, schedule
from pytest_genmodel.pipelines.families.call import call_parameters
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.residents import parameter_count

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.checkpoints.checkpoint import Checkpoint
    from pytest_genmodel.pipelines.families.base import Family
    from pytest_genmodel.pipelines.probe import Probe


@dataclass(frozen=True, eq=False)
class Sample:
    """One sampled video.

    `latents` is float32 (steps, ...) with the family's own latent layout after the step axis (`Family.latent_axes`;
    for CogVideoX: batch, frame, channel, height, width); `frames` is float32 (frame, channel, height, width) in
    [0, 1]. Both are on the CPU.
    """

    latents: torch.Tensor
    frames: torch.Tensor


@dataclass
class Samples:
    """The session's memory of samples: keyed by content, probe and transformation."""

    computed: int = 0
    probes: dict[str, Probe] = field(default_factory=dict)
    """What was asked for, by the probe's key."""
    _store: dict[tuple[str, ...], Sample] = field(default_factory=dict)

    def get(self, key: tuple[str, ...], compute: Callable[[], Sample]) -> Sample:
        """Give the sample of `key`; computes it the first time."""
        if key not in self._store:
            self._store[key] = compute()
            self.computed += 1
        return self._store[key]

    def kept(self, digest: str | None) -> dict[str, Sample]:
        """The samples of the checkpoint with this digest, by the probe's key: those of which nothing was changed."""
        return {
            key[1]: sample
            for key, sample in self._store.items()
            if key[0] == digest and key[2] == "" and key[1] in self.probes
        }


class NoStepsError(GenmodelError):
    """The pipeline made something without a step that could be seen."""


def run_pipeline(
    pipeline: Any,
    family: Family,
    checkpoint: Checkpoint,
    probe: Probe,
    device: str,
    progress: Progress,
    *,
    pinned: bool = True,
) -> Sample:
    """Call the live diffusers pipeline once with a CPU generator seeded by the probe.

    The generator decides everything random; the global random state is neither read nor set here, but for a family
    that draws from it: there it is seeded by the probe too, unless `pinned` is off, and put back afterwards.
    """
    import torch

    latents: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> None:
        latents.append(tensor.detach().float().cpu().clone())
        progress("sampling", len(latents), probe.steps)

    def after_step(
        _: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        keep(tensors["latents"])
        return {}

    pipeline.set_progress_bar_config(disable=True)
    models = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    size = sum(parameter_count(model) for model in models)
    taken = call_parameters(type(pipeline))
    arguments: dict[str, Any] = {
        **family.call_arguments(checkpoint, probe),
        "generator": torch.Generator("cpu").manual_seed(probe.seed),
        "output_type": "pt",
    }
    watched: AbstractContextManager[None] = nullcontext()
    if "callback_on_step_end" in taken:
        arguments["callback_on_step_end"] = after_step
    else:
        watched = _steps_seen(getattr(pipeline, "scheduler", None), keep)
    drawn = _global_seed(probe.seed) if family.draws_globally and pinned else nullcontext()
    with controlled(device, size), quiet(), torch.no_grad(), watched, drawn:
        try:
            output = pipeline(**arguments)
        except Exception as error:  # whatever a pipeline makes of a schedule that cannot be walked
            _require_schedule(getattr(pipeline, "scheduler", None), probe.steps, error)
            raise
    if not latents:
        raise NoStepsError(f"{type(pipeline).__name__} came to its end and no step of it was seen")
    return Sample(family.stacked(latents), family.frames(output).detach().float().cpu())


def _require_schedule(scheduler: Any, steps: int, error: Exception) -> None:
    """Say that the schedule is what broke the run, where it is."""
    if scheduler is not None:
        try:
            schedule(scheduler, steps)
        except StepsRefusedError as refused:
            raise refused from error


@contextmanager
def _steps_seen(scheduler: Any, keep: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Give `keep` what each step of the scheduler returns: for pipelines that call nobody back after a step."""
    if scheduler is None:
        yield
        return
    step, own = scheduler.step, vars(scheduler).get("step")

    def watched(*arguments: Any, **options: Any) -> Any:
        result = step(*arguments, **options)
        keep(result[0])
        return result

    scheduler.step = watched
    try:
        yield
    finally:
        if own is None:
            del scheduler.step  # the class's own again
        else:
            scheduler.step = own


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
