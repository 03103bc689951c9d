"""Progress lines with wall and CPU seconds: on shared cores the two differ, and only the second is the cost."""

from __future__ import annotations

import math
import time


class Clock:
    """Measures one stage from its creation on."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu

    def say(self, message: str) -> None:
        print(f"[{self.stage} {self.wall:6.1f}s wall {self.cpu:6.1f}s cpu] {message}", flush=True)


def cosine(step: int, steps: int, warmup: int = 50, floor: float = 0.02) -> float:
    """Return the factor of the learning rate at `step`: a linear start, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))
