"""A frame as the picture that pipelines take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


def picture(frame: torch.Tensor) -> Image:
    """Give a frame (3, height, width) in [0, 1] as PIL, in 8 bits a channel."""
    import torch
    from PIL import Image

    levels = (frame * 255).round().to(dtype=torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
