"""The clips of a tiny data set as a trainer sees them: decoded again, since a codec is not exact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def first_clip(dataset: Path) -> tuple[torch.Tensor, str]:
    """The first clip of a data set that `write_dataset` wrote, as (frames, 3, height, width) in [0, 1], and its
    caption."""
    import av
    import torch

    video = dataset / (dataset / "videos.txt").read_text(encoding="utf-8").splitlines()[0]
    with av.open(str(video)) as container:
        pictures: list[Any] = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clip = torch.stack([torch.from_numpy(picture) for picture in pictures]).permute(0, 3, 1, 2)
    return clip.float() / 255, (dataset / "prompts.txt").read_text(encoding="utf-8").splitlines()[0]
