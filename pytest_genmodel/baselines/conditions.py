"""The conditions that a baseline was made under, and which of those of a run they do not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_genmodel.pipelines.placement import Placement
    from pytest_genmodel.pipelines.probe import Probe

OPTIONS = {
    "level": "--genmodel-level",
    "device": "--genmodel-device",
    "dtype": "--genmodel-dtype",
    "seed": "--genmodel-seed",
    "steps": "--genmodel-steps",
    "frames": "--genmodel-frames",
    "width": "--genmodel-size",
    "height": "--genmodel-size",
    "prompt": "--genmodel-prompt",
    "image": "--genmodel-image",
}
"""What sets a key, where something does; `guidance` and `negative_prompt` are the checkpoint's own."""
STATIC = "static"


def conditions(probe: Probe, placement: Placement, level: str) -> dict[str, Any]:
    """What a sample depends on beside the model, as plain values; `image` is a sha256 of its pixels."""
    return {
        "level": level,
        "device": placement.device.partition(":")[0],
        "dtype": placement.dtype,
        "seed": probe.seed,
        "steps": probe.steps,
        "frames": probe.frames,
        "width": probe.width,
        "height": probe.height,
        "prompt": probe.prompt,
        "negative_prompt": probe.negative_prompt,
        "guidance": probe.guidance,
        "image": hashlib.sha256(probe.image.numpy().tobytes()).hexdigest(),
    }


def misfit(made: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say which key differs between the conditions `made` and those of a run, in one line; None where they fit.

    At the static level nothing is sampled: there any baseline fits.
    """
    if now.get("level") == STATIC:
        return None
    for key, value in now.items():
        if made.get(key) != value:
            option = f" ({OPTIONS[key]})" if key in OPTIONS else ""
            return f"made with {key} {_shown(made.get(key))}, and this run has {_shown(value)}{option}"
    return None


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else f"{value}"
    return text if len(text) <= 60 else f"{text[:24]}...{text[-4:]}"
