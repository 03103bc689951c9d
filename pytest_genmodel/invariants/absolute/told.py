"""GM934 to GM937 and GM945: what image, timestep, guidance and latents become on their way through the pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.invariants.absolute.again import Again
from pytest_genmodel.invariants.absolute.layout import channels_first, clip_of, vae_scale
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.conditions import TIME, conditions_of
from pytest_genmodel.pipelines.curves import distance
from pytest_genmodel.pipelines.effective import effective_config
from pytest_genmodel.pipelines.observed_run import Denoised, ObservedRun
from pytest_genmodel.pipelines.recording import Recorded

if TYPE_CHECKING:
    import torch

GAIN, OFFSET, ALIKE = 0.1, 0.1, 0.9
"""How far the picture at the VAE may be from the image's own range of -1 to 1, and how alike the two must be at
least: noise on it (SVD: 0.02) and rounding stay far within, a wrong range is off by a half at least."""
TIMESTEP = {"float32": 1e-5, "float64": 1e-5, "int64": 0.0, "int32": 0.0, "float16": 2e-3, "bfloat16": 8e-3}
STRENGTH = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 1e-1}
"""Relative: two predictions that are nearly equal leave few digits of what lies between them."""
RANGES = {
    (127.5, 127.5): "it is given in 0 to 255, where the model takes -1 to 1",
    (0.5, 0.5): "it is given in 0 to 1, where the model takes -1 to 1",
    (2.0, -1.0): "it was brought from 0 to 1 to -1 to 1 twice",
    (-1.0, 0.0): "it is inverted",
    (2 / 255, 2 / 255 - 1): "it was divided by 255 twice",
}


def told_findings(context: Context, run: ObservedRun, again: Again) -> Iterator[Finding]:
    """Everything between the components of a family that is known here; a generic pipeline may do as it likes."""
    if not context.candidate.family.is_known:
        context.measure(told="not judged: the pipeline is of no family that is known here")
        return
    yield from _pixels(run)
    yield from _timesteps(run)
    yield from _guidance(context, run, again)
    yield from _latents(context, run)
    yield from _further(context, run)


def _pixels(run: ObservedRun) -> Iterator[Finding]:
    """The first picture that the VAE encodes is the probe's, in -1 to 1."""
    import torch

    if not run.encoded:
        return
    picture = run.encoded[0][0].float()
    picture = picture[:, 0] if picture.ndim == 4 else picture
    expected = run.probe.image * 2 - 1
    if picture.shape != expected.shape:
        return
    x, y = expected.flatten().double(), picture.flatten().double()
    centred, moved = x - x.mean(), y - y.mean()
    spread = float(centred.norm() * moved.norm())
    alike = float(centred @ moved) / spread if spread > 1e-9 else 0.0
    gain = float(centred @ moved / centred.square().sum().clamp_min(1e-12))
    if not float(x.max() - x.min()):  # an image of one colour: what is given must be of it, too
        alike = 1.0 if float(moved.square().mean().sqrt()) < GAIN else 0.0
        gain = 1.0
    offset = float(y.mean() - gain * x.mean())
    evidence = {"gain": gain, "offset": offset, "correlation": alike}
    cause: str | None
    if abs(alike) < ALIKE:
        what = f"what it is given has {alike:.2f} in common with it (correlation)"
        cause = "another picture, noise, or a constant stands in for the image"
    elif abs(gain - 1) > GAIN or abs(offset) > OFFSET:
        low, high = float(torch.min(y)), float(torch.max(y))
        bounds = f"from {float(x.min()):.3g} to {float(x.max()):.3g}"
        what = f"it is given values from {low:.3g} to {high:.3g}, and the image's lie {bounds}"
        cause = next((why for known, why in RANGES.items() if _near((gain, offset), known)), None)
    else:
        return
    yield Finding(
        "GM934",
        f"the VAE is not given the image: {what}",
        component="vae",
        location="image",
        cause=cause,
        evidence=evidence,
    )


def _near(found: tuple[float, float], known: tuple[float, float]) -> bool:
    return all(abs(a - b) <= 0.05 * max(1.0, abs(b)) for a, b in zip(found, known, strict=True))


def _timesteps(run: ObservedRun) -> Iterator[Finding]:
    """The denoiser is told the timestep that the scheduler steps from; 0 too, for what is clean already."""
    for seen in run.denoised:
        path = next((name for name in TIME if name in seen.call.arguments), None)
        if path is None or seen.step >= len(run.steps):
            continue
        due = run.steps[seen.step].timestep
        told = seen.call.arguments[path]
        values = told.values.flatten().double().tolist() if isinstance(told, Recorded) else [float(told)]
        kind = str(told.values.dtype).removeprefix("torch.") if isinstance(told, Recorded) else "float64"
        limit = TIMESTEP.get(kind, TIMESTEP["float32"]) * max(abs(due), 1e-3)
        wrong = [value for value in values if abs(value - due) > limit and value != 0]
        if wrong or not any(abs(value - due) <= limit for value in values):
            value = wrong[0] if wrong else values[0]
            yield Finding(
                "GM935",
                f"in step {seen.step + 1} the {seen.call.model} is told the timestep {value:g}, and the scheduler "
                f"steps from {due:g}",
                component=seen.call.model,
                location=path,
                cause=_why_time(value, due),
                evidence={"told": value, "scheduler": due},
            )
            return


def _why_time(value: float, due: float) -> str | None:
    if due and abs(value * 1000 / due - 1) < 1e-3:
        return "it is given as a share of the schedule, 0 to 1"
    if due and 0 < abs(value / due - 1) < 2**-7:
        return (
            "it is rounded to half precision on its way (bfloat16 has no whole numbers between 512 and 1,024 but "
            "every fourth)"
        )
    return None


def _guidance(context: Context, run: ObservedRun, again: Again) -> Iterator[Finding]:
    """What the scheduler is given is the unconditional prediction, and so many times what the prompt adds."""
    import torch

    halves = _halves([seen for seen in run.denoised if seen.step == 0])
    if halves is None or not run.steps or run.probe.guidance <= 1:
        return
    which = _prompted(context, run, halves, again)
    if which is None:
        context.measure(guidance="not judged: the prompt's prediction cannot be told from the other")
        return
    prompted, other = (halves[which][0], halves[1 - which][0])
    stepped = run.steps[0].prediction
    prompt, without = (_laid_like(stepped, prediction) for prediction in (prompted, other))
    if prompt is None or without is None:
        context.measure(guidance="not judged: the prediction is laid out anew before the step")
        return
    frames = context.candidate.family.latent_axes
    axis = frames.index("frame") if "frame" in frames and stepped.ndim == len(frames) else 0
    expected = context.candidate.family.strengths(run.probe, stepped.shape[axis])
    whole = [value.double() for value in (prompt, without, stepped)]
    cut = [(value,) if len(expected) == 1 else value.unbind(axis) for value in whole]
    limit = STRENGTH.get(context.candidate.placement.dtype, STRENGTH["bfloat16"])
    for place, (c, u, given, strength) in enumerate(zip(*cut, expected, strict=True)):
        a = c - u
        power = float(a.square().sum())
        if power <= 1e-12 * float(u.square().sum()):
            continue
        # Some pipelines hand the step the negated prediction.
        m = min((given - u, -given - u), key=lambda moved: float((moved - strength * a).norm()))
        found = float((a * m).sum()) / power
        rest = float((m - found * a).norm() / m.norm().clamp_min(1e-30))
        if abs(found - strength) > limit * max(1.0, abs(strength)) or rest > 10 * limit:
            yield Finding(
                "GM936",
                f"the step is given {found:.3g} times what the prompt adds to the prediction, and the guidance is "
                f"{strength:.3g}" + (f" (frame {place})" if len(expected) > 1 else ""),
                location="step 1",
                cause="the two halves have changed places: the video flees the prompt"
                if abs(found - (1 - strength)) <= limit * max(1.0, abs(strength))
                else "the prompt's prediction alone is used: guidance is not applied"
                if abs(found - 1) <= limit
                else None,
                evidence={"strength": found, "expected": strength, "rest": rest},
            )
            return
    context.measure(guidance=round(float(torch.tensor(expected, dtype=torch.float64).max()), 3))


Half = tuple["torch.Tensor", Mapping[str, Any]]


def _halves(calls: list[Denoised]) -> tuple[Half, Half] | None:
    """The two predictions of a step, each with the tensors that it was made from: two calls, or two rows of one."""
    if len(calls) == 2 and calls[0].prediction.shape == calls[1].prediction.shape:
        first, second = ((seen.prediction.float(), _row(seen, None)) for seen in calls)
        return first, second
    if len(calls) == 1 and len(calls[0].prediction) == 2:
        seen = calls[0]
        first, second = ((seen.prediction[row : row + 1].float(), _row(seen, row)) for row in (0, 1))
        return first, second
    return None


def _row(seen: Denoised, row: int | None) -> Mapping[str, Any]:
    tensors = {path: value.values for path, value in seen.call.tensors.items() if value.whole}
    if row is None:
        return tensors
    return {path: value[row : row + 1] for path, value in tensors.items() if value.ndim and len(value) == 2}


def _prompted(context: Context, run: ObservedRun, halves: tuple[Half, Half], again: Again) -> int | None:
    """Which of the two another prompt changes, or was made with what the pipeline gives when it does not guide."""
    if sum(again.rows) == 1 and len(again.rows) == 2:
        return again.rows.index(True)
    try:
        alone = conditions_of(context.candidate, run.probe)
    except (GenmodelError, RuntimeError, ValueError):
        return None
    for piece in (*alone.of_kind("text"), *alone.of_kind("image")):
        if piece.axis is not None:
            continue
        value = alone.value(piece).float()
        same = [piece.path in told and _same(told[piece.path].float(), value) for _, told in halves]
        if same[0] != same[1]:
            return same.index(True)
    return None


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and float((a - b).norm()) <= 1e-3 * float(b.norm())


def _laid_like(stepped: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor | None:
    """A prediction in the layout in which the scheduler is given it: tokens as a clip, the image's frame left out."""
    if prediction.ndim == 3 and stepped.ndim == 5 and prediction.shape[2] == stepped.shape[1]:
        high, wide = stepped.shape[3:]
        if prediction.shape[1] % (high * wide):
            return None
        prediction = prediction.reshape(1, -1, high, wide, prediction.shape[2]).permute(0, 4, 1, 2, 3)
    if prediction.ndim == 5 and stepped.ndim == 4 and len(stepped) == prediction.shape[2]:
        prediction = prediction[0].transpose(0, 1)
    if prediction.ndim == 5 and stepped.ndim == 5 and prediction.shape[2] > stepped.shape[2]:
        prediction = prediction[:, :, -stepped.shape[2] :]
    return prediction if prediction.shape == stepped.shape else None


def _latents(context: Context, run: ObservedRun) -> Iterator[Finding]:
    """What is decoded are the last step's latents with the VAE's scale taken out, and nothing else."""
    import torch

    component = context.candidate.checkpoint.components.get("vae")
    if component is None or run.sample is None or not run.decoded:
        return
    config = dict(effective_config(component))
    given = channels_first(run.decoded)
    axes = context.candidate.family.latent_axes
    last = clip_of(run.sample.latents[-1], given, axes)
    if last is None or len(last) != len(given) or config.get("timestep_conditioning"):
        context.measure(decoded="not judged: the latents are laid out anew before they are decoded")
        return
    frames = min(last.shape[1], given.shape[1])
    start = 1 if frames > 1 else 0  # the image's own frame may be put back before decoding
    z, d = (value[:, -frames:][:, start:].flatten(1).double() for value in (last, given))
    gain, offset = vae_scale(context, config, len(z))
    expected = z * gain[:, None] + offset[:, None]
    error = distance(d, expected)
    limit = 10 * STRENGTH.get(context.candidate.placement.dtype, STRENGTH["bfloat16"])
    if error <= limit:
        context.measure(decoded_latents=round(error, 9))
        return
    if not bool(last.isfinite().all()):
        context.measure(decoded="not judged: the latents are not finite, which is said elsewhere")
        return
    centred = z - z.mean(1, keepdim=True)
    found = (centred * (d - d.mean(1, keepdim=True))).sum(1) / centred.square().sum(1).clamp_min(1e-30)
    ratio = float((found / gain).median())
    twice = float((found * gain).median())
    yield Finding(
        "GM937",
        f"the decoder is given latents that are {ratio:.3g} times what the VAE's own scale makes of the last step's "
        f"(relative difference {error:.2g})",
        component="vae",
        location="latents",
        cause="they are multiplied by the scaling factor where they must be divided by it"
        if abs(twice - 1) < 1e-2 and bool(torch.all(gain == gain[0]))
        else None,
        evidence={"ratio": ratio, "difference": error},
    )


def _further(context: Context, run: ObservedRun) -> Iterator[Finding]:
    """Further conditions whose value the family knows."""
    if not run.denoised:
        return
    expected = context.candidate.family.told(context.candidate.checkpoint, run.probe)
    arguments = run.denoised[0].call.arguments
    for path, values in expected.items():
        found = arguments.get(path)
        if found is None:
            given: list[float] = []
        elif isinstance(found, Recorded):
            given = found.values.double().reshape(-1)[-len(values) :].tolist()
        else:
            given = [float(found)]
        if len(given) != len(values) or any(
            abs(a - b) > 8e-3 * max(1e-3, abs(b)) for a, b in zip(given, values, strict=True)
        ):
            yield Finding(
                "GM945",
                f"{path} is {[round(value, 6) for value in given] or 'not given'}, and {list(values)} for what was "
                "asked",
                component=run.denoised[0].call.model,
                location=path,
                evidence={"given": given, "expected": list(values)},
            )
