"""What is kept of samples: the probe's latents and frames; of whole clips the numbers that videos are judged by."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import TYPE_CHECKING, Any

from pytest_genmodel.baselines.store import BaselineError, Blob, Entry
from pytest_genmodel.pipelines.observables import Observables, observe

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.probe import Probe
    from pytest_genmodel.pipelines.sampling import Sample

MOST_LATENTS = 8 << 20
"""Bytes of latents beyond which only the last step's are kept."""
MOST_FRAMES = 64 << 20
"""Bytes of frames (one a value) beyond which none are kept, or read."""
LEVELS = 255
"""Frames are kept in 8 bits, as a video file has them."""


@dataclass(frozen=True)
class Seen:
    """What was seen of one clip: its observables, and the standard deviation of the latents after each step.

    `frames` is float32 (frame, channel, height, width) in [0, 1]; None where only the numbers are on record.
    """

    observables: Observables
    spreads: tuple[float, ...]
    frames: torch.Tensor | None = None


@dataclass(frozen=True)
class Recorded:
    """The probe's sample on record: latents by step (from 1), and frames in 8 bits; None where too large."""

    latents: dict[int, torch.Tensor]
    steps: int
    frames: torch.Tensor | None


def seen_of(sample: Sample, probe: Probe) -> Seen:
    """Look at a sample."""
    spreads = tuple(float(latents.std()) for latents in sample.latents)
    return Seen(observe(sample.frames, probe.image), spreads, sample.frames)


def seen_to_json(seen: Seen) -> dict[str, Any]:
    """The numbers of a clip as plain values; infinite ones as text."""
    numbers = {name: _plain(value) for name, value in asdict(seen.observables).items()}
    return {"observables": numbers, "spreads": [_plain(value) for value in seen.spreads]}


def seen_from_json(value: Any) -> Seen:
    """Read what `seen_to_json` made; raises KeyError, TypeError or ValueError for anything else."""
    numbers = {field.name: float(value["observables"][field.name]) for field in fields(Observables)}
    return Seen(Observables(**numbers), tuple(float(spread) for spread in value["spreads"]))


def _plain(value: float) -> float | str:
    return value if value == value and abs(value) != float("inf") else str(value)


def sample_to_entry(sample: Sample, key: str, dtype: str, device: str) -> Entry:
    """An entry that holds the probe's sample; `key` is the probe's."""
    import torch

    latents, frames = sample.latents, sample.frames
    narrow = latents.to(torch.bfloat16)
    kept = narrow if torch.equal(narrow.float(), latents) else latents
    if kept.numel() * kept.element_size() > MOST_LATENTS:
        kept = kept[-1:]
    value = {
        "probe": key,
        "dtype": dtype,
        "device": device,
        "steps": len(latents),
        "frames": list(frames.shape),
    }
    tensors = {"latents": Blob.of(kept)}
    if frames.numel() <= MOST_FRAMES:
        tensors["frames"] = Blob.of(_pack(in_levels(frames)))
    return Entry(value, tensors)


def sample_from_entry(entry: Entry, path: str) -> Recorded:
    """Read what `sample_to_entry` made.

    Raises:
        BaselineError: it is something else.
    """
    try:
        value, steps = entry.value, int(entry.value["steps"])
        latents = entry.tensors["latents"].tensor().float()
        shape = tuple(int(size) for size in value["frames"])
        packed = entry.tensors.get("frames")
        frames = None if packed is None else _unpack(packed.tensor(), shape)
        first = steps - len(latents) + 1
        by_step = {first + number: one for number, one in enumerate(latents)}
        return Recorded(by_step, steps, frames)
    except (KeyError, TypeError, ValueError, zlib.error, RuntimeError):
        raise BaselineError(f"{path}: the sample in it is damaged; make the baseline again") from None


def in_levels(frames: torch.Tensor) -> torch.Tensor:
    """Frames in [0, 1] as uint8, rounded to the nearest of 256 levels; NaN as 0."""
    import torch

    return frames.nan_to_num(0.0).clamp(0, 1).mul(LEVELS).round().to(torch.uint8)


def _pack(frames: torch.Tensor) -> torch.Tensor:
    """Compress without loss: differences of neighbouring pixels, then deflate."""
    import torch

    steps = frames.clone()
    steps[..., 1:] -= frames[..., :-1]  # modulo 256
    return torch.frombuffer(
        bytearray(zlib.compress(steps.contiguous().numpy().tobytes(), 6)), dtype=torch.uint8
    )


def _unpack(packed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The frames again; never more bytes than the shape says, which must be a reasonable one."""
    import torch

    size = prod(shape)
    if not 0 < size <= MOST_FRAMES or len(shape) != 4 or min(shape) < 1:
        raise ValueError(shape)
    data = zlib.decompressobj().decompress(packed.numpy().tobytes(), size + 1)
    if len(data) != size:
        raise ValueError(size)
    steps = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(shape)
    return steps.cumsum(-1, dtype=torch.uint8)  # modulo 256
