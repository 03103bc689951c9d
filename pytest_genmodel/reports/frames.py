"""Frames of a video to be looked at: which of them, and each as a picture.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


def spread(count: int, most: int) -> list[int]:
    """Numbers of at most `most` of `count` frames, evenly spaced, the last one included."""
    taken = min(most, count)
    return [round(place * (count - 1) / max(1, taken - 1)) for place in range(taken)]


def picture(frame: torch.Tensor) -> Image:
    """A frame, float (3 or 1, height, width) in [0, 1], as an RGB picture; NaN is shown as black."""
    import torch
    from PIL import Image

    values = torch.nan_to_num(frame.float()).clamp(0, 1).mul(255).round().byte()
    if values.shape[0] == 1:
        values = values.expand(3, -1, -1)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
