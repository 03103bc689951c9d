"""The clips of a tiny data set as a trainer sees them: decoded again, since a codec is not exact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import MissingExtraError

if TYPE_CHECKING:
    import torch


def first_clip(dataset: Path) -> tuple[torch.Tensor, str]:
    """The first clip of a data set that `write_dataset` wrote, as `read_clip` gives it, and its caption."""
    video = (dataset / "videos.txt").read_text(encoding="utf-8").splitlines()[0]
    return read_clip(dataset / video), (dataset / "prompts.txt").read_text(encoding="utf-8").splitlines()[0]


def read_clip(video: Path) -> torch.Tensor:
    """Decode a video: float32 (frames, 3, height, width) in [0, 1].

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    import torch

    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "train", "reading a video") from None
    with av.open(str(video)) as container:
        pictures: list[Any] = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clip = torch.stack([torch.from_numpy(picture) for picture in pictures]).permute(0, 3, 1, 2)
    return clip.float() / 255
