"""Any diffusers pipeline of no family that is known: called by its own signature, and not trained."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families.base import Family, Geometry, Grid
from pytest_genmodel.pipelines.families.call import call_parameters, probe_arguments
from pytest_genmodel.pipelines.library import class_named

if TYPE_CHECKING:
    from pytest_genmodel.pipelines.probe import Probe

DENOISERS = ("transformer", "unet")
"""Names that diffusers' pipelines have for what denoises."""
SIDE = 512
"""Pixels a side where neither the configuration nor the call says a size."""


class Generic(Family):
    """A pipeline that is called by the signature of its class; what needs knowledge of a family is left out."""

    name = "generic"
    pipeline_classes = ()
    image_enters = "as the call takes it"
    image_frame = None
    latent_axes = ()
    has_objective = False
    is_known = False

    def __init__(self, pipeline_class: str, denoiser: str) -> None:
        self.title = pipeline_class
        self.denoiser = denoiser
        self.experts = (f"{denoiser}_2",)

    def geometry(self, checkpoint: Checkpoint) -> Geometry:
        """What the denoiser's configuration says, else the defaults of the call."""
        defaults = {name: given.default for name, given in self._parameters(checkpoint).items()}
        config = checkpoint.components[self.denoiser].config
        scale = _pixels_a_latent(checkpoint)
        square = config.get("sample_size")
        sides = (square, square) if isinstance(square, int) else tuple(square or (None, None))
        height, width = (
            _first_whole(
                _times(config.get(f"sample_{name}"), scale), _times(side, scale), defaults.get(name), SIDE
            )
            for name, side in zip(("height", "width"), sides, strict=True)
        )
        frames = _first_whole(
            config.get("sample_frames"), defaults.get("num_frames"), defaults.get("frames"), 1
        )
        return Geometry(height, width, frames if {"num_frames", "frames"} & defaults.keys() else 1)

    def grid(self, checkpoint: Checkpoint) -> Grid:
        """Whole patches of latents; nothing is known of the frames."""
        patch = checkpoint.components[self.denoiser].config.get("patch_size", 1)
        side = patch if isinstance(patch, int) else max(patch or (1,))
        return Grid(_pixels_a_latent(checkpoint) * side)

    def without_effect(self, checkpoint: Checkpoint) -> frozenset[str]:
        """The negative prompt of a call that makes no unconditional one by default (`true_cfg_scale` 1, as FLUX)."""
        true_guidance = self._parameters(checkpoint).get("true_cfg_scale")
        by_default = None if true_guidance is None else true_guidance.default
        idle = isinstance(by_default, (int, float)) and by_default <= 1
        return frozenset({"negative_prompt"} if idle else ())

    def call_arguments(self, checkpoint: Checkpoint, probe: Probe) -> Mapping[str, Any]:
        """What the probe holds, under the call's own names; the image as a picture or as a still video.

        Raises:
            BadInputError: the call asks for something that no probe holds.
        """
        parameters = self._parameters(checkpoint)
        found = probe_arguments(checkpoint, probe)
        asked = [
            name
            for name, given in parameters.items()
            if name != "self"
            and given.default is given.empty
            and given.kind is given.POSITIONAL_OR_KEYWORD
            and name not in found
        ]
        if asked:
            raise BadInputError(
                f"{self.title} is of no family that is known here, and its call asks for {', '.join(asked)}, which "
                "no probe holds: nothing is sampled"
            )
        return found

    def _parameters(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        return call_parameters(class_named("diffusers", str(checkpoint.pipeline_class)))


def generic_family(checkpoint: Checkpoint) -> Generic | None:
    """The generic family, for a class of the installed diffusers whose denoiser can be told; else None."""
    name = checkpoint.pipeline_class or ""
    denoiser = next((found for found in DENOISERS if found in checkpoint.components), None)
    if denoiser is None or not name.endswith("Pipeline") or name not in _names_in_diffusers():
        return None
    return Generic(name, denoiser)


@cache
def _names_in_diffusers() -> frozenset[str]:
    """What diffusers says that it exports: read from its file, as importing it takes seconds."""
    spec = importlib.util.find_spec("diffusers")
    if spec is None or spec.origin is None:
        return frozenset()
    return frozenset(re.findall(r'"(\w+)"', Path(spec.origin).read_text(encoding="utf-8")))


def _pixels_a_latent(checkpoint: Checkpoint) -> int:
    """How many pixels a side of a latent pixel stands for: as the autoencoder's configuration says, else 8."""
    vae = checkpoint.components.get("vae") if "vae" in checkpoint.components else None
    if vae is None:
        return 8
    for key in ("scale_factor_spatial", "spatial_compression_ratio"):
        if isinstance(said := vae.config.get(key), int):
            return said
    blocks = vae.config.get("block_out_channels")
    return int(2 ** (len(blocks) - 1)) if blocks else 8


def _times(value: Any, scale: int) -> int | None:
    return value * scale if isinstance(value, int) else None


def _first_whole(*values: Any) -> int:
    return next(value for value in values if type(value) is int)
