"""A contact sheet: videos as rows of frames, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.reports.frames import picture, spread

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

GAP = 4
TITLE = 16
LEAST_HEIGHT = 96
BACKGROUND = (250, 250, 250)
INK = (20, 20, 20)


def write_contact_sheet(
    rows: Sequence[tuple[str, torch.Tensor]], path: Path, *, most_frames: int = 9
) -> None:
    """Write one row for each (title, frames) to the PNG file `path`.

    Args:
        rows: frames are float (frame, 3, height, width) in [0, 1]; all of one height and width.
        path: where to write; folders are made.
        most_frames: a longer video is shown by that many frames, evenly spaced, the last one included.
    """
    from PIL import Image, ImageDraw

    pictures = [
        (title, [_enlarged(frames[number]) for number in spread(len(frames), most_frames)])
        for title, frames in rows
    ]
    width, height = pictures[0][1][0].size
    columns = max(len(row) for _, row in pictures)
    sheet = Image.new(
        "RGB",
        (GAP + columns * (width + GAP), len(pictures) * (TITLE + height + GAP) + GAP),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    for number, (title, row) in enumerate(pictures):
        top = GAP + number * (TITLE + height + GAP)
        draw.text((GAP, top), title, fill=INK)
        for column, shown in enumerate(row):
            sheet.paste(shown, (GAP + column * (width + GAP), top + TITLE))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _enlarged(frame: torch.Tensor) -> Image:
    """A frame as PIL, enlarged by whole pixels when it is tiny."""
    from PIL import Image

    whole = picture(frame)
    scale = max(1, -(-LEAST_HEIGHT // whole.height))
    return whole.resize((whole.width * scale, whole.height * scale), Image.Resampling.NEAREST)
