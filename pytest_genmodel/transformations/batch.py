"""A probe sampled as the last row of a batch of two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import first_line
from pytest_genmodel.pipelines.families.call import call_parameters
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.placement import controlled
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.residents import parameter_count
from pytest_genmodel.transformations.bench import FRAMES, LATENTS, Bench, Look, Observation
from pytest_genmodel.transformations.neutral import NotHereError

if TYPE_CHECKING:
    import torch

ONE_DRAW = {
    "LTXConditionPipeline": "it draws the noise of the image for the whole batch from the first row's generator",
}
"""Classes whose rows are known not to be independent, and why (diffusers 0.42)."""


def last_of_two(bench: Bench, other: Probe) -> Observation:
    """Sample the bench's probe as the second row of a batch, behind `other`, with a generator for each row.

    The image is the probe's in both rows: some classes take one for all.

    Raises:
        NotHereError: the class takes no batch, or its rows are known to depend on each other; says why.
    """
    cls = type(bench.live)
    if reason := ONE_DRAW.get(cls.__name__):
        raise NotHereError(reason)
    if bench.family.draws_globally:
        raise NotHereError("it draws from torch's global random state, whatever generators it is given")
    single = dict(bench.family.call_arguments(bench.pipeline.checkpoint, bench.probe))
    lists = dict(single)
    for name, value in (
        ("prompt", [other.prompt, bench.probe.prompt]),
        ("negative_prompt", [other.negative_prompt, bench.probe.negative_prompt]),
        ("image", [single.get("image")] * 2),
    ):
        if name in single:
            lists[name] = value
    attempts = [lists, {**lists, "image": single["image"]}] if "image" in single else [lists]
    reason = ""
    for arguments in attempts:
        try:
            return _run(bench, arguments, other)
        except Exception as error:  # each class refuses in its own way
            reason = reason or first_line(error)
            bench.renew()
    raise NotHereError(f"it takes no batch of two ({reason})")


def _run(bench: Bench, arguments: Mapping[str, Any], other: Probe) -> Observation:
    import torch

    live, device = bench.live, bench.pipeline.placement.device
    steps: list[torch.Tensor] = []

    def after_step(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(tensors["latents"][-1:].detach().float().cpu().clone())
        return {}

    given = dict(arguments)
    if "callback_on_step_end" in call_parameters(type(live)):
        given["callback_on_step_end"] = after_step
    generators = [torch.Generator("cpu").manual_seed(probe.seed) for probe in (other, bench.probe)]
    live.set_progress_bar_config(disable=True)
    size = sum(parameter_count(model) for model in bench.models.values())
    bench.runs += 1
    with controlled(device, size), quiet(), torch.no_grad():
        output = live(**given, generator=generators, output_type="pt")
    videos = next(iter(output.values())) if hasattr(output, "values") else output
    if len(videos) != 2:
        raise NotHereError(f"for two prompts it makes {len(videos)} videos")
    frames = bench.family.frames({"frames": videos[1:]}).detach().float().cpu()
    latents = bench.family.stacked(steps) if steps else ()
    return (
        *(Look(f"step {step}", LATENTS, values) for step, values in enumerate(latents, start=1)),
        *(Look(f"frame {frame}", FRAMES, values) for frame, values in enumerate(frames)),
    )
