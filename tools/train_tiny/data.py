"""Synthetic clips: one shape that moves as its caption says, rendered from a seed.

The pictures come from the product's own renderer, so that the training data and the default probe are one kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pytest_genmodel.pipelines.tiny import scene

SIDE = 32
FRAMES = 17
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
RADIUS = (4.0, 5.5)  # pixels
SPEED = (0.55, 0.65)  # pixels a frame; nothing tells the model which, and a wide range blurs late frames
WORDS = ("a", "moves", *scene.SHAPES, *scene.COLORS, *DIRECTIONS)


@dataclass(frozen=True)
class Clip:
    """What one clip shows. `start` is (x, y) in pixels, `radius` in pixels, `speed` in pixels a frame."""

    shape: str
    color: str
    direction: str
    start: tuple[float, float]
    radius: float
    speed: float
    backdrop: scene.Backdrop

    @property
    def caption(self) -> str:
        return f"a {self.color} {self.shape} moves {self.direction}"

    def render(self, frames: int = FRAMES, first: int = 0) -> np.ndarray:
        """Return `frames` pictures from frame `first` on: float32 (frames, SIDE, SIDE, 3) in [0, 1]."""
        dx, dy = DIRECTIONS[self.direction]
        canvas = self.backdrop.render(SIDE, SIDE)
        pictures = []
        for index in range(first, first + frames):
            x = (self.start[0] + dx * self.speed * index) / SIDE
            y = (self.start[1] + dy * self.speed * index) / SIDE
            pictures.append(
                scene.paint(
                    canvas, shape=self.shape, color=self.color, center=(x, y), radius=self.radius / SIDE
                )
            )
        return np.stack(pictures)


def draw(rng: np.random.Generator) -> Clip:
    """Draw one clip; its shape stays inside the picture from the first frame to the last."""
    shape = scene.SHAPES[rng.integers(len(scene.SHAPES))]
    color = list(scene.COLORS)[rng.integers(len(scene.COLORS))]
    direction = list(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
    radius, speed = rng.uniform(*RADIUS), rng.uniform(*SPEED)
    travel = speed * (FRAMES - 1)
    start = []
    for step in DIRECTIONS[direction]:
        low, high = radius + 0.5, SIDE - radius - 0.5
        low, high = low + travel * (step < 0), high - travel * (step > 0)
        start.append(float(rng.uniform(low, high)))
    return Clip(shape, color, direction, (start[0], start[1]), radius, speed, _backdrop(rng))


def clips(seed: int, count: int) -> Iterator[Clip]:
    """Yield `count` clips; training, validation and test use seeds of their own."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield draw(rng)


def captions() -> list[str]:
    """Return every caption there is."""
    return [
        f"a {color} {shape} moves {direction}"
        for color in scene.COLORS
        for shape in scene.SHAPES
        for direction in DIRECTIONS
    ]


def _backdrop(rng: np.random.Generator) -> scene.Backdrop:
    def muted() -> tuple[float, float, float]:
        grey = rng.uniform(0.25, 0.75)
        red, green, blue = np.clip(grey + rng.uniform(-0.06, 0.06, size=3), 0.0, 1.0)
        return float(red), float(green), float(blue)

    return scene.Backdrop(
        start=muted(),
        end=muted(),
        angle=rng.uniform(0.0, 2 * np.pi),
        grating_angle=rng.uniform(0.0, np.pi),
        period=rng.uniform(0.15, 0.35),
        depth=rng.uniform(0.0, 0.03),
    )
