"""Seeded samples, each computed once in a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.progress import Progress
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

    `latents` is float32 (steps, ...) with the family's own latent layout after the step axis (for CogVideoX:
    batch, frame, channel, height, width); `frames` is float32 (frame, channel, height, width) in [0, 1]. Both
    are on the CPU.
    """

    latents: torch.Tensor
    frames: torch.Tensor


@dataclass
class Samples:
    """The session's memory of samples: keyed by content, probe and transformation."""

    computed: int = 0
    _store: dict[tuple[str, ...], Sample] = field(default_factory=dict)

    def get(self, key: tuple[str, ...], compute: Callable[[], Sample]) -> Sample:
        """Give the sample of `key`; computes it the first time."""
        if key not in self._store:
            self._store[key] = compute()
            self.computed += 1
        return self._store[key]


def run_pipeline(
    pipeline: Any, family: Family, checkpoint: Checkpoint, probe: Probe, device: str, progress: Progress
) -> Sample:
    """Call the live diffusers pipeline once with a CPU generator seeded by the probe.

    The generator decides everything random; the global random state is neither read nor set here.
    """
    import torch

    latents: list[torch.Tensor] = []

    def keep(_: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latents.append(tensors["latents"].detach().float().cpu().clone())
        progress("sampling", step + 1, probe.steps)
        return {}

    pipeline.set_progress_bar_config(disable=True)
    models = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    size = sum(parameter_count(model) for model in models)
    with controlled(device, size), quiet(), torch.no_grad():
        output = pipeline(
            **family.call_arguments(checkpoint, probe),
            generator=torch.Generator("cpu").manual_seed(probe.seed),
            output_type="pt",
            callback_on_step_end=keep,
        )
    return Sample(torch.stack(latents), output.frames[0].detach().float().cpu())
