"""Our own sample with one input changed, as other people's inference code changes it: to explain a difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.families.call import call_parameters
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.sampling import run_pipeline

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Guess:
    """What may have been done: in words, and whether nobody does it on purpose; `frames` samples like that."""

    text: str
    is_fault: bool
    frames: Callable[[], torch.Tensor]


def guesses(pipeline: Pipeline, probe: Probe) -> Iterator[Guess]:
    """Give the usual differences, the likeliest first; each costs a sample when it is asked for its frames."""

    def asked(text: str, is_fault: bool, name: str, **changes: Any) -> Guess:
        other = probe.but(**changes)
        return Guess(text, is_fault, lambda: pipeline.sample(other, transformation=f"guess: {name}").frames)

    yield Guess(
        "it samples with the scheduler's defaults: the checkpoint's scheduler_config.json is not read",
        True,
        lambda: _with_default_scheduler(pipeline, probe),
    )
    yield asked("red and blue of the image are exchanged (BGR)", True, "bgr", image=probe.image.flip(0))
    upside_down = probe.image.flip(1)
    yield asked("the image is upside down", True, "upside down", image=upside_down)
    yield asked("the prompt does not arrive", True, "no prompt", prompt="")
    for seed in dict.fromkeys((0, 42)):
        if seed != probe.seed:
            yield asked(f"it samples with the seed {seed}: the seed does not arrive", True, "seed", seed=seed)
    own = call_parameters(type(pipeline.diffusers)).get("guidance_scale")
    for guidance in dict.fromkeys((1.0, own.default if own is not None else 1.0)):
        if guidance != probe.guidance and isinstance(guidance, int | float):
            yield asked(
                f"it samples with guidance {guidance:g} ({probe.guidance:g} was asked for)",
                False,
                "guidance",
                guidance=float(guidance),
            )


def _with_default_scheduler(pipeline: Pipeline, probe: Probe) -> torch.Tensor:
    live = pipeline.diffusers
    own = live.scheduler
    live.scheduler = type(own)()
    try:
        return run_pipeline(
            live, pipeline.family, pipeline.checkpoint, probe, pipeline.placement.device, pipeline.progress
        ).frames
    finally:
        live.scheduler = own
