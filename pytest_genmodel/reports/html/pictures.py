"""Videos as pictures in a page: sheets of frames to be played in step, and all of them as one animated WebP.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pytest_genmodel.reports.frames import picture, spread

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SIZES = ((320, 49), (240, 33), (160, 25), (128, 17), (96, 9))
"""(longest side in pixels, most frames), tried in this order until the pictures fit."""
COLUMNS = 8
"""Frames of a row of a sheet."""
LOSSLESS = 64
"""Sides up to which frames are kept to the last bit: tiny models, whose noise is no noise to be smoothed away."""
MOST_GAIN = 64.0
"""How far a difference is amplified at most."""
MILLISECONDS = 125
"""How long the animated picture shows a frame."""
GAP = 2
EMPTY = (128, 128, 128)


def pictures(ours: torch.Tensor, theirs: torch.Tensor | None, budget: int) -> dict[str, Any] | None:
    """Make the sheets of two videos and of their difference, within `budget` bytes.

    Args:
        ours: the candidate's frames, float (frame, 3, height, width) in [0, 1].
        theirs: the reference's, of the same shape; None where there are none.
        budget: bytes that they may take.

    Gives their measures, the numbers of the frames shown, `sheets` (role -> WebP in base64), `together` (one animated
    WebP) and `gain`, by which the difference is amplified. None where even the smallest are too large.
    """
    rows = {"reference": theirs, "candidate": ours} if theirs is not None else {"candidate": ours}
    gain = None
    if theirs is not None:
        gap = (ours - theirs).abs().nan_to_num(nan=1.0, posinf=1.0, neginf=1.0)
        gain = round(min(MOST_GAIN, 1 / max(float(gap.max()), 1 / MOST_GAIN)), 1)
        rows["difference"] = gap * gain
    tried: tuple[int, int] | None = None
    for side, most in SIZES:
        shown = spread(len(ours), most)
        width, height = _fit(ours.shape[-1], ours.shape[-2], side)
        if tried == (width * height, len(shown)):
            continue
        tried = width * height, len(shown)
        videos = {role: [_frame(video[n], width, height) for n in shown] for role, video in rows.items()}
        made = {role: _sheet(video) for role, video in videos.items()}
        together = _animated(list(videos.values()))
        if sum(map(len, made.values())) + len(together) <= budget:
            return {
                "width": width,
                "height": height,
                "columns": min(COLUMNS, len(shown)),
                "shown": shown,
                "gain": gain,
                "sheets": {role: _text(data) for role, data in made.items()},
                "together": _text(together),
            }
    return None


def _fit(width: int, height: int, side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _frame(frame: torch.Tensor, width: int, height: int) -> Image:
    from PIL import Image

    whole = picture(frame)
    return whole if whole.size == (width, height) else whole.resize((width, height), Image.Resampling.BOX)


def _sheet(frames: list[Image]) -> bytes:
    from PIL import Image

    width, height = frames[0].size
    columns = min(COLUMNS, len(frames))
    sheet = Image.new("RGB", (columns * width, -(-len(frames) // columns) * height), EMPTY)
    for number, frame in enumerate(frames):
        sheet.paste(frame, (number % columns * width, number // columns * height))
    stream = BytesIO()
    sheet.save(stream, "WEBP", **_quality(frames[0]))
    return stream.getvalue()


def _animated(videos: list[list[Image]]) -> bytes:
    """The videos beside each other in one picture, which cannot but play in step."""
    from PIL import Image

    width, height = videos[0][0].size
    frames = []
    for parts in zip(*videos, strict=True):
        frame = Image.new("RGB", (len(parts) * (width + GAP) - GAP, height), EMPTY)
        for number, part in enumerate(parts):
            frame.paste(part, (number * (width + GAP), 0))
        frames.append(frame)
    stream = BytesIO()
    frames[0].save(
        stream,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=MILLISECONDS,
        loop=0,
        **_quality(videos[0][0]),
    )
    return stream.getvalue()


def _quality(frame: Image) -> dict[str, Any]:
    return {"lossless": True} if max(frame.size) <= LOSSLESS else {"quality": 80}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
