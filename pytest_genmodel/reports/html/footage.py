"""What was sampled, as pictures and curves that travel with a record: from a worker to the page.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe
    from pytest_genmodel.pipelines.sampling import Sample, Samples

BYTES = 6_000_000
"""Bytes of pictures on a page, whatever the number of candidates; base64 makes a third more of them."""
Rank = tuple[bool, int, int]


@dataclass
class Filming:
    """Gives each candidate's best sample once: with the reference's beside it before without, a longer one before a
    shorter. Nothing is sampled for it.
    """

    candidates: Mapping[str, str]
    """The spec of each candidate, by its label."""
    reference: str | None
    samples: Samples
    digest_of: Callable[[str | None], str | None]
    """What a spec's samples are kept under; None where nothing has needed it."""
    _given: dict[str, Rank] = field(default_factory=dict)

    def new(self) -> list[dict[str, Any]]:
        """What became known since the last call, one entry for a candidate, as JSON values."""
        from pytest_genmodel.reports.report import plain

        found = []
        for label, spec in self.candidates.items():
            best = self._best(spec)
            if best is not None and best[0] > self._given.get(label, (False, 0, 0)):
                self._given[label], ours, theirs, probe = best
                budget = BYTES // len(self.candidates)
                found.append({"candidate": label, **plain(film(ours, theirs, probe, budget))})
        return found

    def _best(self, spec: str) -> tuple[Rank, Sample, Sample | None, Probe] | None:
        ours = self.samples.kept(self.digest_of(spec))
        theirs = self.samples.kept(self.digest_of(self.reference))
        choices = [
            ((key in theirs, len(sample.frames), -number), sample, theirs.get(key), self.samples.probes[key])
            for number, (key, sample) in enumerate(ours.items())
        ]
        return max(choices, key=lambda choice: choice[0], default=None)


def film(ours: Sample, theirs: Sample | None, probe: Probe, budget: int) -> dict[str, Any]:
    """One probe's sample, beside the reference's where there is one.

    `psnr` is in dB for each frame, `latents` the relative L2 distance after each step; both are None where there is
    no reference's, or where shapes differ.
    """
    from pytest_genmodel.reports.html.pictures import pictures

    frames = ours.frames
    beside = theirs.frames if theirs is not None and theirs.frames.shape == frames.shape else None
    return {
        "prompt": probe.prompt,
        "seed": probe.seed,
        "guidance": probe.guidance,
        "steps": len(ours.latents),
        "frames": len(frames),
        "width": int(frames.shape[-1]),
        "height": int(frames.shape[-2]),
        "psnr": _psnr(frames, beside),
        "latents": _distances(ours.latents, theirs.latents if theirs is not None else None),
        "pictures": pictures(frames, beside, budget),
    }


def _psnr(ours: torch.Tensor, theirs: torch.Tensor | None) -> list[float] | None:
    from pytest_genmodel.pipelines.curves import psnrs

    return None if theirs is None else psnrs(ours, theirs)


def _distances(ours: torch.Tensor, theirs: torch.Tensor | None) -> list[float] | None:
    from pytest_genmodel.pipelines.curves import distances

    return None if theirs is None or ours.shape != theirs.shape else distances(ours, theirs)
