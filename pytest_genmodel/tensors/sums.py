"""The sums from which every overall figure of a comparison follows."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Sums:
    """Totals over the pairs of finite elements; blocks are added up in float64.

    With d = actual - expected, the totals kept are d.d, d.expected and expected.expected: the norms of both sides and
    their product follow without cancellation, so a norm change of 1e-9 is still seen.
    """

    numel: int = 0
    differing: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    square_difference: float = 0.0
    cross: float = 0.0
    square_expected: float = 0.0

    def add(self, other: Sums) -> None:
        """Take the totals of another part of the same tensors."""
        self.numel += other.numel
        self.differing += other.differing
        self.max_abs = max(self.max_abs, other.max_abs)
        self.max_rel = max(self.max_rel, other.max_rel)
        self.square_difference += other.square_difference
        self.cross += other.cross
        self.square_expected += other.square_expected

    @property
    def square_actual(self) -> float:
        """The squared norm of the actual side."""
        return max(0.0, self.square_expected + 2.0 * self.cross + self.square_difference)

    @property
    def rms(self) -> float:
        """Root mean square of the difference."""
        return math.sqrt(self.square_difference / self.numel) if self.numel else 0.0

    @property
    def relative_difference(self) -> float:
        """||actual - expected|| / ||expected||; infinite when only the expected side is zero."""
        return _ratio(math.sqrt(self.square_difference), math.sqrt(self.square_expected))

    @property
    def difference_of_actual(self) -> float:
        """||actual - expected|| / ||actual||; infinite when only the actual side is zero."""
        return _ratio(math.sqrt(self.square_difference), math.sqrt(self.square_actual))

    @property
    def relative_norm_change(self) -> float:
        """| ||actual|| - ||expected|| | / ||expected||."""
        both = math.sqrt(self.square_actual) + math.sqrt(self.square_expected)
        gap = _ratio(abs(2.0 * self.cross + self.square_difference), both)
        return _ratio(gap, math.sqrt(self.square_expected))

    @property
    def cosine(self) -> float:
        """Cosine similarity: 1 for two zero tensors, 0 when only one is zero."""
        norms = math.sqrt(self.square_actual) * math.sqrt(self.square_expected)
        if norms == 0.0:
            return 1.0 if self.square_difference == 0.0 else 0.0
        return max(-1.0, min(1.0, (self.square_expected + self.cross) / norms))

    def psnr(self, peak: float) -> float:
        """Peak signal-to-noise ratio in dB; infinite for equal tensors."""
        if self.square_difference == 0.0:
            return math.inf
        return 20.0 * math.log10(peak) - 10.0 * math.log10(self.square_difference / self.numel)


def _ratio(part: float, whole: float) -> float:
    if whole == 0.0:
        return 0.0 if part == 0.0 else math.inf
    return part / whole
