"""The trained CogVideoX model that travels with the package; `data/cogvideox-i2v-trained/README.md` is its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .registry import TinyPipeline

FOLDER = Path(__file__).parent / "data" / "cogvideox-i2v-trained"


def build_trained() -> Any:
    """Return the shipped CogVideoXImageToVideoPipeline: float32 from float16 files, eval mode, on the CPU.

    It samples 32 x 32 pixels and 17 frames; `probe` has the settings it was trained for.
    """
    import torch
    from diffusers import CogVideoXImageToVideoPipeline

    pipeline = CogVideoXImageToVideoPipeline.from_pretrained(FOLDER, dtype=torch.float32)
    for part in ("transformer", "vae", "text_encoder"):
        getattr(pipeline, part).eval()
    return pipeline


def probe() -> dict[str, Any]:
    """Return the recommended probe: prompt, steps, frames, height, width, guidance, max_sequence_length."""
    settings: dict[str, Any] = json.loads((FOLDER / "probe.json").read_text(encoding="utf-8"))
    return settings


PIPELINES = (
    TinyPipeline(
        name="cogvideox-i2v-trained",
        summary="CogVideoX image-to-video that moves a shape as its caption says, trained, 32 x 32 pixels, 17 frames",
        build=build_trained,
        shipped=FOLDER,
    ),
)
