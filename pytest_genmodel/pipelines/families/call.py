"""From a probe to the arguments of a pipeline's call, by the names that the call has."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.pipelines.library import class_named

if TYPE_CHECKING:
    from pytest_genmodel.checkpoints.checkpoint import Checkpoint
    from pytest_genmodel.pipelines.probe import Probe


def call_parameters(pipeline_class: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of the class's call, by name."""
    return inspect.signature(pipeline_class.__call__).parameters


def probe_arguments(checkpoint: Checkpoint, probe: Probe) -> dict[str, Any]:
    """Give what the probe holds under the names that the checkpoint's class has for it; the rest is left out.

    Raises:
        BadInputError: the installed diffusers has no such class.
    """
    names = call_parameters(class_named("diffusers", str(checkpoint.pipeline_class)))
    held = {
        "prompt": probe.prompt,
        "negative_prompt": probe.negative_prompt,
        "height": probe.height,
        "width": probe.width,
        "num_frames": probe.frames,
        "frames": probe.frames,
        "num_inference_steps": probe.steps,
        "guidance_scale": probe.guidance,
    }
    held |= picture_arguments(names, probe)
    return {name: value for name, value in held.items() if name in names}


def picture_arguments(names: Collection[str], probe: Probe) -> dict[str, Any]:
    """The probe's image under the names that a call has for it: a picture, or a video that stands still."""
    if "image" in names:
        return {"image": probe.picture()}
    return {"video": [probe.picture()] * probe.frames} if "video" in names else {}
