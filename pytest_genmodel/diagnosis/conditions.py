"""The denoiser's arguments in training held against those at inference, for one and the same clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.image_condition import Situation, distance, image_findings
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.pipelines.conditions import TIME, Conditions, Piece, kind_of
from pytest_genmodel.pipelines.recording import Call, Recorded

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.pipelines.noise_level import NoiseLevel

Measure = Callable[..., None]

_FLOORS = {"float32": 1e-3, "float64": 1e-3, "float16": 2e-2, "bfloat16": 8e-2}
"""Relative difference that encoders in a dtype may leave behind."""
_POSITIONS_FLOOR = 1e-5
_MISSING = {"text": "GM733", "image": "GM732", "positions": "GM736"}


def condition_findings(
    case: Situation, empty_prompt: Callable[[], Conditions], measure: Measure
) -> Iterator[Finding]:
    """Compare what was recorded argument by argument, nearest to the root cause first.

    Args:
        case: the training calls of one clip and what inference gives for it.
        empty_prompt: records inference with an empty prompt; asked only where the text differs.
        measure: is given figures for the report.
    """
    rows, inference = case.rows, case.inference
    measure(training_calls=len(rows), arguments=len(inference.calls[0].arguments))
    yield from _missing(rows, inference)
    yield from _time(rows, inference, measure)
    misfit = _layout(rows, inference)
    if misfit is not None:
        yield misfit
    for piece in inference.pieces:
        if not any(piece.path in row.tensors for row in rows):
            continue
        if piece.kind == "image":
            if misfit is None or piece.path != inference.noisy:
                yield from image_findings(piece, case, measure)
        elif piece.kind == "text":
            yield from _text(piece, rows, inference, empty_prompt, measure)
        elif piece.kind == "positions":
            yield from _positions(piece, rows, inference)
        elif piece.kind == "other":
            yield from _other(piece, rows, inference)
    yield from _plain(rows, inference)
    yield from _precision(rows, inference)


def _missing(rows: Sequence[Call], inference: Conditions) -> Iterator[Finding]:
    here = {path for row in rows for path in row.arguments}
    there = inference.calls[0].arguments
    told: set[str] = set()
    for path, value in there.items():
        base = path.partition("[")[0]
        if path in here or base in told or not isinstance(value, Recorded):
            continue
        told.add(base)
        yield Finding(
            _MISSING.get(kind_of(path), "GM735"),
            f"{base} is given at inference ({_shape(value)}), and in no training call",
            location=base,
            cause="the training step calls the denoiser without it",
        )
    for path in sorted(here - there.keys()):
        value = next(row.arguments[path] for row in rows if path in row.arguments)
        base = path.partition("[")[0]
        if isinstance(value, Recorded) and base not in told:
            told.add(base)
            yield Finding(
                "GM736" if kind_of(path) == "positions" else "GM735",
                f"{base} is given in training ({_shape(value)}), and not at inference",
                location=base,
            )


def _shape(value: Recorded) -> str:
    return f"{list(value.shape)} {value.dtype}"


def _layout(rows: Sequence[Call], inference: Conditions) -> Finding | None:
    """The noisy argument's shape, which must be that of inference for the same size."""
    path = inference.noisy
    ours = next((row.tensors[path] for row in rows if path in row.tensors), None)
    theirs = inference.calls[0].tensors[path]
    if ours is None or ours.shape == theirs.shape:
        return None
    return Finding(
        "GM731",
        f"{path} is {list(ours.shape)} in training and {list(theirs.shape)} at inference",
        location=path,
        cause="axes in another order, another number of channels, or a size that inference does not make",
    )


def _time(rows: Sequence[Call], inference: Conditions, measure: Measure) -> Iterator[Finding]:
    for path in TIME:
        theirs = [call.tensors[path] for call in inference.calls if path in call.tensors]
        ours = [row.tensors[path] for row in rows if path in row.tensors]
        if not theirs or not ours:
            continue
        if (ours[0].values.numel() > 1) != (theirs[0].values.numel() > 1):
            yield Finding(
                "GM734",
                f"{path} is {list(ours[0].shape)} in training and {list(theirs[0].shape)} at inference",
                location=path,
                cause="one timestep for the whole clip, where inference gives each token (or frame) its own",
            )
        measure(timesteps=f"{ours[0].dtype}, {theirs[0].dtype} at inference")
        yield from _time_range(path, ours, theirs)


def _time_range(path: str, ours: Sequence[Recorded], theirs: Sequence[Recorded]) -> Iterator[Finding]:
    largest = max(float(value.values.max()) for value in ours)
    usual = max(float(value.values.max()) for value in theirs)
    seen = f"{path} is at most {largest:g} in {len(ours)} training calls; inference starts at {usual:g}"
    if usual > 2 and largest <= 1:
        cause = "timesteps in [0, 1]: divided by the number of training timesteps"
        yield Finding("GM734", seen, location=path, cause=cause)
    elif usual <= 1 < largest:
        cause = "timesteps in [0, 1000], where the denoiser takes [0, 1]"
        yield Finding("GM734", seen, location=path, cause=cause)
    elif largest > max(1000.0, usual):
        yield Finding("GM734", seen, location=path, cause="timesteps beyond the schedule: scaled twice")


def _text(
    piece: Piece,
    rows: Sequence[Call],
    inference: Conditions,
    empty_prompt: Callable[[], Conditions],
    measure: Measure,
) -> Iterator[Finding]:
    theirs = inference.value(piece)
    given = [row.tensors[piece.path] for row in rows if piece.path in row.tensors]
    ours = [value for value in given if value.values.shape == theirs.shape]
    if not ours:
        yield Finding(
            "GM733",
            f"{piece.path} is {list(given[0].shape)} in training and {list(theirs.shape)} at inference",
            location=piece.path,
            cause="captions are padded or cut to another length (max_sequence_length), or not padded at all",
        )
        return
    best = min(ours, key=lambda value: distance(value.values, theirs))
    gap = distance(best.values, theirs)
    measure(text_difference=round(gap, 6))
    limit = _floor(best.values, theirs)
    if gap <= limit:
        return
    cause = None
    if all(not bool(value.values.any()) for value in ours):
        cause = "it is zero in every step: the caption is dropped always, and not in some steps"
    else:
        empty = empty_prompt().value(piece)
        if empty.shape == theirs.shape and distance(best.values, empty) <= limit:
            cause = "it is that of the empty prompt in every step: the caption is dropped always"
    likeness = None if cause else _likeness(best.values, theirs)
    yield Finding(
        "GM733",
        f"{piece.path} of the same caption differs in all {len(ours)} training calls: relative difference {gap:.3g}"
        + (f"; {likeness}" if likeness else ""),
        location=piece.path,
        cause=cause,
        evidence={"relative_difference": gap, **against(gap, limit, "relative difference")},
    )


def _positions(piece: Piece, rows: Sequence[Call], inference: Conditions) -> Iterator[Finding]:
    theirs = inference.value(piece)
    given = [row.tensors[piece.path] for row in rows if piece.path in row.tensors]
    ours = [value.values for value in given if value.values.shape == theirs.shape]
    if not ours:
        yield Finding(
            "GM736",
            f"{piece.path} is {list(given[0].shape)} in training and {list(theirs.shape)} at inference",
            location=piece.path,
            cause="the table is made for another size or number of frames",
        )
        return
    best = min(ours, key=lambda value: distance(value, theirs))
    gap = distance(best, theirs)
    if gap <= _POSITIONS_FLOOR:
        return
    through = went_through(best)
    at_inference = went_through(theirs)
    if gap <= _FLOORS["bfloat16"] and (through or at_inference):
        where = "" if through else " at inference"
        yield Finding(
            "GM739",
            f"{piece.path} went through {through or at_inference}{where}: relative difference {gap:.3g}",
            location=piece.path,
        )
        return
    likeness = _likeness(best, theirs)
    yield Finding(
        "GM736",
        f"{piece.path} differs from what inference makes for the same size: relative difference {gap:.3g}"
        + (f"; {likeness}" if likeness else ""),
        location=piece.path,
        cause="the table is made for another size, crop or number of frames",
        evidence={"relative_difference": gap, **against(gap, _POSITIONS_FLOOR, "relative difference")},
    )


def _other(piece: Piece, rows: Sequence[Call], inference: Conditions) -> Iterator[Finding]:
    theirs = inference.value(piece)
    given = [row.tensors[piece.path] for row in rows if piece.path in row.tensors]
    ours = [value for value in given if value.values.shape == theirs.shape]
    if ours and min(distance(value.values, theirs) for value in ours) <= _floor(ours[0].values, theirs):
        return
    was = _brief(given[0]) if not ours else _brief(ours[0])
    yield Finding(
        "GM735",
        f"{piece.path} is {was} in training and {_brief(inference.calls[0].tensors[piece.path])} at inference",
        location=piece.path,
    )


def _brief(value: Recorded) -> str:
    if value.values.numel() <= 8:
        return str(value.values.flatten().tolist())
    return f"{_shape(value)} of mean {value.mean:.4g} and spread {value.std:.4g}"


def _plain(rows: Sequence[Call], inference: Conditions) -> Iterator[Finding]:
    for path, theirs in inference.calls[0].arguments.items():
        ours = [row.arguments[path] for row in rows if path in row.arguments]
        if isinstance(theirs, Recorded) or not ours or theirs in ours:
            continue
        yield Finding(
            "GM735", f"{path} is {ours[0]!r} in training and {theirs!r} at inference", location=path
        )


def _precision(rows: Sequence[Call], inference: Conditions) -> Iterator[Finding]:
    """One note for all arguments whose dtype is another, or whose values went through a smaller one."""
    other: list[str] = []
    for path, theirs in inference.calls[0].tensors.items():
        ours = next((row.tensors[path] for row in rows if path in row.tensors), None)
        if ours is None or path in TIME or "float" not in theirs.dtype:
            continue
        piece = next((piece for piece in inference.pieces if piece.path == path), None)
        if ours.dtype != theirs.dtype:
            other.append(f"{path} is {ours.dtype} ({theirs.dtype} at inference)")
        elif piece is not None and piece.kind in ("text", "image") and ours.shape == theirs.shape:
            through = went_through(piece.of(ours.values))
            if through is not None and went_through(inference.value(piece)) is None:
                other.append(f"{piece.place} went through {through}")
    if other:
        yield Finding("GM739", "; ".join(other), location=other[0].partition(" ")[0])


def went_through(values: torch.Tensor) -> str | None:
    """Give the smaller dtype that holds every value exactly; None where there is none, or nothing to tell by."""
    import torch

    varied = values[values != 0]
    if values.dtype is not torch.float32:
        return str(values.dtype).removeprefix("torch.") if values.dtype.itemsize < 4 else None
    if varied.numel() < 8:
        return None
    for dtype in (torch.bfloat16, torch.float16):
        if bool((varied.to(dtype).float() == varied).all()):
            return str(dtype).removeprefix("torch.")
    return None


def _floor(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Either side may be the one in 16 bits: a trainer encodes in float32 what inference encodes in bfloat16."""
    return max(precision_floor(ours), precision_floor(theirs))


def precision_floor(values: torch.Tensor) -> float:
    """Relative difference that encoders may leave in values of this dtype, or of one that they went through."""
    own = str(values.dtype).removeprefix("torch.")
    return max(_FLOORS.get(own, 0.0), _FLOORS.get(went_through(values) or "", 0.0))


def _likeness(ours: torch.Tensor, theirs: torch.Tensor) -> str | None:
    from pytest_genmodel.tensors import explain

    likeness = explain(ours.float(), theirs.float())
    return likeness.text if likeness else None


def latent_findings(
    rows: Sequence[Call], path: str, clean: torch.Tensor, level: NoiseLevel, measure: Measure
) -> Iterator[Finding]:
    """Judge the scale of the clean latents below the noise, by what is expected of the clip at each timestep.

    Two estimates must agree before anything is said: how much of the clip's own latents is in the noisy ones, and how
    much energy they have beyond that of the noise.
    """
    told, weights, energy, powers = [], [], [], []
    size = float(clean.double().pow(2).mean())
    if not size:
        return  # latents that are all zero have no scale
    for row in rows:
        value = row.tensors.get(path)
        times = [row.tensors[name] for name in TIME if name in row.tensors]
        if value is None or not times or times[0].values.numel() != 1:
            continue
        shares = level(float(times[0].values))
        if shares is None or shares[0] < 0.05:
            continue
        signal, noise = shares
        noisy = _aligned(value.values.double(), clean)
        if noisy.shape != clean.shape:
            continue
        told.append(float((noisy * clean).sum() / (clean.double().pow(2).sum() * signal)))
        weights.append(signal**2 / max(noise**2, 1e-6))
        power = (float(noisy.pow(2).mean()) - noise**2) / (signal**2 * size)
        energy.append(power)
        powers.append(signal**4 / max(noise**4, 1e-6))
    if not told:
        return
    factor = sum(a * b for a, b in zip(told, weights, strict=True)) / sum(weights)
    square = sum(a * b for a, b in zip(energy, powers, strict=True)) / sum(powers)
    by_energy = square**0.5 if square > 0 else 0.0
    error = (sum(weights) * clean.numel() * size) ** -0.5
    measure(latent_factor=round(factor, 4), latent_factor_error=round(error, 4))
    agree = abs(by_energy - factor) <= max(0.15 * factor, 6 * error)
    if abs(factor - 1) > max(0.15, 6 * error) and factor > 0 and agree:
        limit = max(0.15, 6 * error)
        yield Finding(
            "GM737",
            f"the clip's latents are in {path} at {factor:.3g} times the scale that the timestep says (standard "
            f"error {error:.2g}; by energy {by_energy:.3g})",
            location=path,
            evidence={
                "factor": factor,
                "standard_error": error,
                "by_energy": by_energy,
                **against(abs(factor - 1), limit, "from the scale of 1"),
            },
        )


def _aligned(noisy: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """The channels of the noisy argument that hold the latents: those in front, where images stand behind."""
    for axis in range(1, noisy.ndim):
        if noisy.shape[axis] > clean.shape[axis]:
            noisy = noisy.narrow(axis, 0, clean.shape[axis])
    return noisy
