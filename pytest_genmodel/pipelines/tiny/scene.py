"""A scene: one coloured shape on a muted background, drawn by rule, at any size.

The trained tiny model was taught on such scenes, and the default image of a probe is one of them. Positions and
lengths are fractions, so that a scene looks the same at every size: x and y of the width and height, radius and
grating period of the shorter side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_genmodel.errors import BadInputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

SHAPES = ("circle", "square", "triangle")
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.92, 0.12, 0.10),
    "green": (0.10, 0.78, 0.18),
    "blue": (0.12, 0.25, 0.95),
    "yellow": (0.96, 0.88, 0.10),
    "magenta": (0.90, 0.14, 0.82),
    "cyan": (0.10, 0.82, 0.90),
}
# Below this chroma (largest minus smallest channel) a pixel is background; a shape has 0.7 and more.
_MUTED = 0.3


@dataclass(frozen=True)
class Backdrop:
    """A linear gradient between two colours (RGB in [0, 1]) with a faint grating over it.

    `angle` and `grating_angle` are in radians, `period` is a fraction of the shorter side, `depth` the amplitude.
    """

    start: tuple[float, float, float] = (0.36, 0.40, 0.46)
    end: tuple[float, float, float] = (0.70, 0.68, 0.63)
    angle: float = 0.6
    grating_angle: float = 2.2
    period: float = 0.22
    depth: float = 0.02

    def render(self, height: int, width: int) -> Array:
        """Return the backdrop alone, float32 of shape (height, width, 3) in [0, 1]."""
        import numpy as np

        x, y = _grid(height, width)
        across = (x - 0.5) * math.cos(self.angle) + (y - 0.5) * math.sin(self.angle)
        share = np.clip(across / 1.4 + 0.5, 0.0, 1.0)[..., None]
        start, end = np.asarray(self.start), np.asarray(self.end)
        right, down = x * width / min(height, width), y * height / min(height, width)
        along = right * math.cos(self.grating_angle) + down * math.sin(self.grating_angle)
        grating = self.depth * np.sin(2 * math.pi * along / self.period)[..., None]
        picture: Array = np.clip(start + share * (end - start) + grating, 0.0, 1.0).astype(np.float32)
        return picture


def render(
    height: int,
    width: int,
    *,
    shape: str = "square",
    color: str = "red",
    center: tuple[float, float] = (0.32, 0.5),
    radius: float = 0.15,
    backdrop: Backdrop | None = None,
) -> Array:
    """Return the picture of one scene: float32 of shape (height, width, 3), RGB in [0, 1], equal in every run.

    Every value is a multiple of 1/255, so the picture passes through an 8-bit image unchanged.
    `center` is (x, y) in fractions of width and height, (0, 0) the upper left corner; `radius` is a fraction of the
    shorter side. Raises `BadInputError` for an unknown shape or color and for sizes below one pixel.
    """
    if height < 1 or width < 1:
        raise BadInputError(f"a scene needs at least 1 x 1 pixels, not {height} x {width}")
    canvas = (backdrop or Backdrop()).render(height, width)
    return paint(canvas, shape=shape, color=color, center=center, radius=radius)


def paint(canvas: Array, *, shape: str, color: str, center: tuple[float, float], radius: float) -> Array:
    """Return a copy of `canvas` (height, width, 3) with the shape on it; arguments and errors as in `render`."""
    import numpy as np

    if shape not in SHAPES:
        raise BadInputError(f"no shape is named {shape!r}; known: {', '.join(SHAPES)}")
    if color not in COLORS:
        raise BadInputError(f"no color is named {color!r}; known: {', '.join(COLORS)}")
    height, width = canvas.shape[:2]
    short = min(height, width)
    x, y = _grid(height, width)
    # Signed distance to the outline in pixels (negative inside), so that the edge is one pixel soft at any size.
    outline = _distance(shape, (x - center[0]) * width, (y - center[1]) * height, radius * short)
    share = np.clip(0.5 - outline, 0.0, 1.0)[..., None]
    ink = np.asarray(COLORS[color])
    painted = canvas * (1.0 - share) + ink * share
    picture: Array = (np.round(painted * 255.0) / 255.0).astype(np.float32)
    return picture


def locate(image: Array) -> tuple[float, float] | None:
    """Return the centre (x, y), in fractions, of what is vividly coloured in `image`; None where nothing is.

    `image` is float of shape (height, width, 3), RGB in [0, 1].
    """
    import numpy as np

    picture = np.asarray(image, dtype=np.float64)
    vivid = np.clip(picture.max(axis=-1) - picture.min(axis=-1) - _MUTED, 0.0, None)
    total = float(vivid.sum())
    if total < 1e-3 * vivid.size:
        return None
    x, y = _grid(*vivid.shape)
    return float((vivid * x).sum() / total), float((vivid * y).sum() / total)


def _grid(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of every pixel's centre, in fractions, each broadcastable to (height, width)."""
    import numpy as np

    x = (np.arange(width, dtype=np.float64) + 0.5) / width
    y = (np.arange(height, dtype=np.float64) + 0.5) / height
    return np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))


def _distance(
    shape: str, x: NDArray[np.float64], y: NDArray[np.float64], radius: float
) -> NDArray[np.float64]:
    """Return the signed distance of (x, y), measured from the shape's centre, to its outline."""
    import numpy as np

    if shape == "circle":
        return np.asarray(np.hypot(x, y) - radius)
    if shape == "square":
        return np.asarray(np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius)
    # An upright triangle: base below the centre, two slanted sides with outward normals (+-0.89, -0.45).
    slanted = 0.894 * np.abs(x) - 0.447 * y - 0.5 * radius
    return np.asarray(np.maximum(slanted, y - 0.85 * radius))
