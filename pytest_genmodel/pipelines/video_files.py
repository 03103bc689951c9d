"""Frames from what somebody else's inference wrote: a video, pictures, or an array."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.natural_order import natural_order
from pytest_genmodel.errors import GenmodelError, MissingExtraError, first_line

if TYPE_CHECKING:
    import torch

PICTURES = (".png", ".jpg", ".jpeg")
VIDEOS = (".mp4", ".webm", ".mov", ".mkv", ".avi")
ANIMATIONS = (".gif", ".webp")
ARRAYS = (".npy", ".pt", ".safetensors")
KNOWN = (*VIDEOS, *ANIMATIONS, *ARRAYS, *PICTURES)


class VideoFileError(GenmodelError):
    """There is no video, more than one, or one that cannot be read; says which."""


@dataclass(frozen=True, eq=False)
class Frames:
    """A video: float32 (frame, channel, height, width) in [0, 1], and the step between two values it can hold.

    `is_lossy`: the file holds it only roughly (a video, a JPEG, a palette).
    """

    values: torch.Tensor
    step: float
    is_lossy: bool = False


def read_folder(folder: Path) -> Frames:
    """Read the one video under `folder`: a file, or pictures in the order of their names (2 before 10).

    Raises:
        VideoFileError: there is none, there are several, or it cannot be read.
        MissingExtraError: it is a video file and av is not installed.
    """
    files = [path for path in folder.rglob("*") if path.suffix.lower() in KNOWN]
    files.sort(key=lambda path: [natural_order(part) for part in path.relative_to(folder).parts])
    whole = [path for path in files if path.suffix.lower() not in PICTURES]
    if not files:
        raise VideoFileError(f"nothing was written that is a video ({', '.join(KNOWN)})")
    if len(whole) > 1:
        raise VideoFileError(
            f"{len(whole)} videos were written, and nothing says which is meant: "
            f"{', '.join(path.name for path in whole[:4])}"
        )
    return read_file(whole[0]) if whole else _pictures(files)


def read_file(path: Path) -> Frames:
    """Read a video, an animation, a picture or an array; raises as `read_folder`."""
    import numpy as np
    import torch

    kind = path.suffix.lower()
    if kind in VIDEOS:
        return _video(path)
    try:
        if kind == ".npy":
            return as_frames(np.load(path, allow_pickle=False))
        if kind == ".pt":
            return as_frames(torch.load(path, map_location="cpu", weights_only=True))
        if kind == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
            return as_frames(tensors["frames"] if "frames" in tensors else next(iter(tensors.values())))
        if kind in ANIMATIONS:
            return _animation(path)
    except VideoFileError:
        raise
    except Exception as error:  # whatever numpy, torch or PIL raise for a bad file
        raise VideoFileError(f"{path.name} cannot be read: {first_line(error)}") from error
    return _pictures([path])


def as_frames(values: Any) -> Frames:
    """Take an array or tensor for a video: integers in [0, 255], or floats in [0, 1]; channels first or last.

    Raises:
        VideoFileError: the shape or the values are none of a video.
    """
    import torch

    try:
        tensor = torch.as_tensor(values).detach().cpu()
    except Exception as error:  # objects of any kind
        raise VideoFileError(f"no frames: {first_line(error)}") from error
    while tensor.ndim > 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 4 or not tensor.numel():
        raise VideoFileError(
            f"the frames have the shape {list(tensor.shape)}, not (frame, channel, height, width)"
        )
    if tensor.shape[1] != 3 and tensor.shape[-1] == 3:
        tensor = tensor.permute(0, 3, 1, 2)
    if tensor.shape[1] != 3:
        raise VideoFileError(
            f"the frames have the shape {list(tensor.shape)}: nowhere are there three channels"
        )
    if tensor.is_complex():
        raise VideoFileError("the frames are complex numbers, not values in [0, 1]")
    is_whole = not tensor.is_floating_point()
    step = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}.get(tensor.dtype, 0.0)
    tensor = tensor.float()
    low, high = float(tensor.min()), float(tensor.max())
    if is_whole:
        if low < 0 or high > 255:
            raise VideoFileError(f"the frames reach from {low:g} to {high:g}: integers are to be in [0, 255]")
        return Frames(tensor / 255, 1 / 255)
    if low < -1e-3 or high > 1 + 1e-3:
        raise VideoFileError(f"the frames reach from {low:.3g} to {high:.3g}: they are to be in [0, 1]")
    return Frames(tensor.contiguous(), step)


def _pictures(files: list[Path]) -> Frames:
    import numpy as np
    from PIL import Image

    arrays = []
    try:
        for file in files:
            with Image.open(file) as picture:
                arrays.append(np.asarray(picture.convert("RGB")))
        frames = as_frames(np.stack(arrays))
    except Exception as error:  # whatever PIL raises for a bad file, or sizes that differ
        raise VideoFileError(f"the pictures cannot be read as one video: {first_line(error)}") from error
    return Frames(frames.values, frames.step, any(file.suffix.lower() != ".png" for file in files))


def _animation(path: Path) -> Frames:
    import numpy as np
    from PIL import Image, ImageSequence

    with Image.open(path) as picture:
        arrays = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    frames = as_frames(np.stack(arrays))
    return Frames(frames.values, frames.step, is_lossy=True)


def _video(path: Path) -> Frames:
    import numpy as np

    if importlib.util.find_spec("av") is None:
        raise MissingExtraError("av", "train", f"reading {path.name}")
    import av

    try:
        with av.open(str(path)) as container:
            arrays = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        frames = as_frames(np.stack(arrays))
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise VideoFileError(f"{path.name} cannot be read: {first_line(error)}") from error
    return Frames(frames.values, frames.step, is_lossy=True)
