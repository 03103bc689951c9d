"""Why the image that a training step conditions on is not the one that the pipeline gives for the same picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.pipelines.conditions import Conditions, Piece, Pixels
from pytest_genmodel.pipelines.recording import Call

if TYPE_CHECKING:
    import torch

CLOSE = 0.1
"""Relative difference up to which two image latents are one: other filters and decoders stay below it."""
SAME_SHAPE = 0.98
"""Cosine from which one latent is a multiple of the other."""
RESEMBLES = 0.3
"""Cosine from which a noised latent still shows its image."""
_FACTOR = 0.03

RANGES: tuple[tuple[str, Pixels], ...] = (
    ("its pixels are in [0, 1], where the VAE takes [-1, 1]", lambda x: (x + 1) / 2),
    ("its pixels are in [0, 255], where the VAE takes [-1, 1]", lambda x: (x + 1) * 127.5),
    ("its pixels were mapped to [-1, 1] twice (they are in [-3, 1])", lambda x: x * 2 - 1),
    ("its colours are in the order blue, green, red", lambda x: x.flip(1)),
    ("it is turned upside down", lambda x: x.flip(-2)),
    ("it is mirrored", lambda x: x.flip(-1)),
)
"""What is done to pixels by mistake, said of the training image."""


@dataclass(frozen=True)
class Situation:
    """What is needed to judge an image condition.

    `rows` are the training calls, one row of the batch each, all of one clip; `axes` names the axes of the noisy
    argument; `retry` records inference again with something done to the pixels; `scale` is the VAE's scaling
    factor (None where it has none), `divides` whether the pipeline divides image latents by it.
    """

    rows: Sequence[Call]
    inference: Conditions
    axes: tuple[str, ...]
    retry: Callable[[Pixels], Conditions]
    scale: float | None = None
    divides: bool = False


def image_findings(piece: Piece, case: Situation, measure: Callable[..., None]) -> Iterator[Finding]:
    """Judge one image piece: the training row that agrees best with inference speaks for the trainer."""
    theirs = case.inference.value(piece).double()
    ours = [
        piece.of(row.tensors[piece.path].values).double() for row in case.rows if piece.path in row.tensors
    ]
    ours = [value for value in ours if value.shape == theirs.shape]
    if not ours or not theirs.numel():
        return
    best = min(ours, key=lambda value: distance(value, theirs))
    gap = distance(best, theirs)
    measure(image_difference=round(gap, 6))
    if gap <= CLOSE or _is_drawn(ours, theirs, case.inference.spread):
        return
    yield from _cause(piece, case, ours, best, theirs)


def _cause(
    piece: Piece, case: Situation, ours: list[torch.Tensor], best: torch.Tensor, theirs: torch.Tensor
) -> Iterator[Finding]:
    evidence = {
        "relative_difference": round(distance(best, theirs), 6),
        "cosine": round(cosine(best, theirs), 6),
        "steps": len(ours),
        **against(distance(best, theirs), CLOSE, "relative difference"),
    }
    if all(not bool(value.any()) for value in ours):
        yield Finding(
            "GM732",
            f"{piece.place} is zero in all {len(ours)} training calls, and holds the image at inference",
            location=piece.place,
            cause="the image condition is dropped in every step, and not in some of them",
            evidence=evidence,
        )
        return
    if moved := _moved(piece, case, best, theirs):
        where, cause = moved
        yield Finding(
            "GM731", where, location=_frame_of(piece, case, best, theirs), cause=cause, evidence=evidence
        )
        return
    if (fit := cosine(best, theirs)) >= SAME_SHAPE:
        factor = float((best * theirs).sum() / (theirs * theirs).sum())
        yield _other(
            piece,
            case,
            best,
            theirs,
            f"is {factor:.4g} times what it is at inference (cosine {fit:.4f})",
            _of_factor(factor, case.scale, case.divides),
            {**evidence, "factor": factor},
        )
        return
    for said, pixels in RANGES:
        retried = case.retry(pixels)
        tried = retried.value(piece).double()
        if tried.shape == best.shape and distance(best, tried) <= CLOSE + retried.spread:
            yield _other(piece, case, best, theirs, "is another image's latent", said, evidence)
            return
    mean = sum(ours[1:], ours[0]) / len(ours)
    random = len(ours) > 1 and any(distance(value, ours[0]) > CLOSE for value in ours[1:])
    if random and cosine(mean, theirs) >= RESEMBLES:
        yield Finding(
            "GM738",
            f"{piece.place} is the image's latent with noise that is other in each step: "
            f"{distance(best, theirs):.2g} of its size and more",
            location=piece.place,
            evidence=evidence,
        )
    elif random:
        yield Finding(
            "GM732",
            f"{piece.place} is other in each training call of one clip, and does not resemble its image (cosine "
            f"{cosine(mean, theirs):.2f} with what it is at inference)",
            location=piece.place,
            cause="noise stands in the image's place (`randn_like(image) * sigma` without the image)",
            evidence=evidence,
        )
    else:
        yield _other(piece, case, best, theirs, "is another one than at inference", None, evidence)


def _other(
    piece: Piece,
    case: Situation,
    ours: torch.Tensor,
    theirs: torch.Tensor,
    what: str,
    cause: str | None,
    evidence: dict[str, Any],
) -> Finding:
    from pytest_genmodel.tensors import explain

    likeness = explain(ours.float(), theirs.float()) if cause is None else None
    return Finding(
        "GM730",
        f"{piece.place}, the image that training is conditioned on, {what}: relative difference "
        f"{distance(ours, theirs):.3g}" + (f"; {likeness.text}" if likeness else ""),
        location=_frame_of(piece, case, ours, theirs),
        cause=cause or (likeness.hint if likeness else None),
        evidence=evidence,
    )


def _frame_of(piece: Piece, case: Situation, ours: torch.Tensor, theirs: torch.Tensor) -> str:
    """The place, with the first frame that differs where frames are known."""
    axis = _frame_axis(piece, case, theirs)
    if axis is None:
        return piece.place
    pairs = zip(ours.unbind(axis), theirs.unbind(axis), strict=True)
    differing = [frame for frame, (a, b) in enumerate(pairs) if distance(a, b) > CLOSE]
    return f"{piece.place} frame {differing[0]}" if differing else piece.place


def _frame_axis(piece: Piece, case: Situation, tensor: torch.Tensor) -> int | None:
    if piece.path != case.inference.noisy or tensor.ndim != len(case.axes) or "frame" not in case.axes:
        return None
    axis = case.axes.index("frame")
    return axis if axis != piece.axis else None


def _moved(piece: Piece, case: Situation, ours: torch.Tensor, theirs: torch.Tensor) -> tuple[str, str] | None:
    """Whether the image is there, but in another frame or in other channels."""
    limit = min(CLOSE + case.inference.spread, 0.5)
    axis = _frame_axis(piece, case, theirs)
    if axis is not None:
        shown = [frame for frame in range(theirs.shape[axis]) if bool(theirs.select(axis, frame).any())]
        if shown and len(shown) < theirs.shape[axis]:
            image = theirs.select(axis, shown[0])
            where = [
                frame
                for frame in range(ours.shape[axis])
                if distance(ours.select(axis, frame), image) <= limit
            ]
            if where and where != shown:
                text = (
                    f"the image's latent stands in frame{'s' * (len(where) > 1)} {_listed(where)} of {piece.place} "
                    f"in training, and in {_listed(shown)} at inference"
                )
                return text, "frames are filled in another order, or the image is repeated over them"
    if piece.axis is None:
        return None
    for row in case.rows:
        whole = row.tensors[piece.path].values.double()
        width = piece.stop - piece.start
        for start in range(whole.shape[piece.axis] - width + 1):
            if start != piece.start and distance(whole.narrow(piece.axis, start, width), theirs) <= limit:
                text = (
                    f"the image's latent stands in {piece.axis_name} {start}:{start + width} of {piece.path} in "
                    f"training, and in {piece.start}:{piece.stop} at inference"
                )
                return text, "noise and image are put together in the other order"
    return None


def _listed(frames: list[int]) -> str:
    return f"{frames[0]} to {frames[-1]}" if len(frames) > 2 else " and ".join(map(str, frames))


def _of_factor(factor: float, scale: float | None, divides: bool) -> str | None:
    """What a factor says, where the VAE's scaling factor explains it."""
    if not scale:
        return None
    rule = "divides by" if divides else "multiplies with"
    stored = f"scaling_factor ({scale:g}; the pipeline {rule} it)"
    own = 1 / scale if divides else scale
    known = {
        1 / own: f"the latent is not scaled with the VAE's {stored}",
        own: f"the latent is scaled twice with the VAE's {stored}",
        1 / own**2: f"the latent is {'multiplied with' if divides else 'divided by'} the VAE's {stored}",
    }
    near = min(known, key=lambda value: abs(value - factor))
    return known[near] if abs(near - factor) <= _FACTOR * abs(near) else None


def _is_drawn(ours: list[torch.Tensor], theirs: torch.Tensor, spread: float) -> bool:
    """Whether the distance is that of draws from the VAE's posterior around the same mean."""
    if not spread:
        return False
    shown = theirs != 0
    size = float(theirs[shown].pow(2).mean().sqrt())
    if any(bool(value[~shown].any()) for value in ours):
        return False
    residuals = [(value - theirs)[shown] for value in ours]
    drawn = max(float(residual.pow(2).mean().sqrt()) for residual in residuals) / size
    mean = sum(ours[1:], ours[0]) / len(ours)
    factor = float((mean * theirs).sum() / (theirs * theirs).sum())
    error = spread / (int(shown.sum()) * len(ours)) ** 0.5
    return drawn <= 1.5 * spread + CLOSE and abs(factor - 1) <= CLOSE + 5 * error


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Root mean square of the difference over that of `theirs` (of the difference alone where `theirs` is zero)."""
    size = float(theirs.double().pow(2).mean().sqrt()) or 1.0
    return float((ours.double() - theirs.double()).pow(2).mean().sqrt()) / size


def cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Cosine of the angle between two tensors as vectors; 0 where one is zero."""
    size = float(ours.double().norm() * theirs.double().norm())
    return float((ours.double() * theirs.double()).sum()) / size if size else 0.0
