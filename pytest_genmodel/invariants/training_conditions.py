"""training_conditions: what the denoiser is told in training is what it is told at inference."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.alpha import scales
from pytest_genmodel.diagnosis.conditions import condition_findings, latent_findings
from pytest_genmodel.diagnosis.finding import Finding, finding_of
from pytest_genmodel.diagnosis.image_condition import CLOSE, Situation, distance
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.training_run import Trainer, check_values, run_findings, train_once
from pytest_genmodel.pipelines.conditions import Conditions, batch_of, conditions_of, row_of
from pytest_genmodel.pipelines.library import class_named
from pytest_genmodel.pipelines.noise_level import clean_latents, noise_level
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.recording import Call
from pytest_genmodel.training.calls import training_calls
from pytest_genmodel.training.clips import first_clip
from pytest_genmodel.training.command import TrainCommand
from pytest_genmodel.training.dataset import write_dataset
from pytest_genmodel.training.loop import moving_clip
from pytest_genmodel.training.resuming import takes
from pytest_genmodel.training.trainers import BUILT_IN, trainer_named
from pytest_genmodel.transformations.train import Trained, TrainerError

if TYPE_CHECKING:
    import torch

UNKNOWN_CLIP = (
    "which clip a training step sees is not known: give the tiny data set to the trainer ({dataset} of a command, a "
    "parameter `dataset` of a function)"
)


@dataclass(frozen=True)
class _Subject:
    """What is trained on: a clip (frames, 3, height, width) in [0, 1] with its caption.

    `certain` says whether it is known that the trainer sees it.
    """

    clip: torch.Tensor
    caption: str
    certain: bool


@invariant(check=check_values)
def training_conditions(context: Context, *, trainer: Trainer = "full", steps: int = 4) -> Iterator[Finding]:
    """In a training step the denoiser is told what it is told at inference for the same clip.

    Its calls are recorded in the trainer's process and compared by argument with a sample's whose image is the clip's
    first frame: image latents, latent scale, text, positions, timesteps and every other argument. Dropped images or
    captions are allowed in some of the steps.
    """
    pipeline = context.candidate
    denoiser = pipeline.checkpoint.components[pipeline.family.denoiser]
    cls = class_named(denoiser.home, denoiser.class_name)
    chosen, subject = _prepared(context, trainer)
    calls_folder = context.work_folder("calls")
    trained: Trained | None = None
    broke: TrainerError | None = None
    ended: list[Finding] = []
    with training_calls(cls, calls_folder) as calls:
        try:
            trained = train_once(context, chosen, lr=context.policy.zero_rate, steps=steps, again=True)
            ended = [finding for finding in run_findings(trained) if finding.code == "GM711"]
        except TrainerError as error:  # what it told the denoiser before that may well be why
            broke = error
    weaker = list(_strength(context, trained, calls)) if trained is not None else []
    yield from weaker
    if calls:
        yield from _judged(context, subject, calls, may_skip=broke is None and not weaker)
    yield from ended
    if broke is not None:
        raise broke
    if not calls:
        context.cannot_judge(
            f"no training call of a {cls.__name__} was seen{_complaint(calls_folder)}: the trainer has a class of "
            "its own, compiles the model, or runs in an environment without pytest-genmodel"
        )


def _strength(context: Context, trained: Trained, calls: list[Call]) -> Iterator[Finding]:
    """An adapter must be loaded at the scale that it was trained at: no weight and no zero rate shows another."""
    adapter = trained.written.adapter if trained.written is not None else None
    acted = calls[-1].scales if calls else {}
    if adapter is None or not acted:
        return
    said = scales(adapter)
    other = [
        name for name in said.rank_by_module if name in acted and not isclose(said.applied(name), acted[name])
    ]
    context.measure(adapter_layers=sum(name in acted for name in said.rank_by_module))
    if other:
        name = other[0]
        yield finding_of(
            "GM825",
            other,
            f"acted at the scale {acted[name]:g} in training, and are loaded at {said.applied(name):g}",
            of=len(said.rank_by_module),
            noun="layers",
            component=context.candidate.family.denoiser,
            cause="the file says no alpha, and alpha = rank is taken: the save call is not given the adapter's "
            "configuration (*_lora_adapter_metadata)"
            if said.by_module.get(name) is None
            else "alpha, rank or rslora of the file are not those of training",
            evidence={"trained": acted[name], "loaded": said.applied(name)},
        )


def _judged(context: Context, subject: _Subject, calls: list[Call], *, may_skip: bool) -> Iterator[Finding]:
    pipeline = context.candidate
    rows = [row_of(call, row) for call in calls for row in range(batch_of(call))]
    inference = _inference(context, subject, rows[0])
    if not subject.certain and not _known(rows, inference):
        if may_skip:
            context.skip(UNKNOWN_CLIP)
        return
    record = functools.partial(conditions_of, pipeline)
    vae = pipeline.component("vae").config if "vae" in pipeline.components else {}
    case = Situation(
        rows,
        inference,
        pipeline.family.latent_axes,
        lambda pixels: record(inference.probe, pixels),
        vae.get("scaling_factor"),
        bool(vae.get("invert_scale_latents")),
    )
    found = list(condition_findings(case, lambda: record(inference.probe.but(prompt="")), context.measure))
    yield from found
    if not {"GM734", "GM731"} & {finding.code for finding in found}:
        yield from _latents(context, pipeline, subject, rows, inference)


def _prepared(context: Context, trainer: Trainer) -> tuple[Any, _Subject]:
    """The trainer with a data set of one clip in it, and that clip."""
    probe = context.probe
    if trainer in BUILT_IN:
        pipeline = context.candidate
        size = probe.width, probe.height, probe.frames
        wishes = ProbeWishes.of_training(probe.prompt, probe.seed, *size)
        own = make_probe(wishes, pipeline.checkpoint, pipeline.family, full=False)
        return trainer, _Subject(moving_clip(own), own.prompt, certain=True)
    name, function = trainer_named(trainer)
    wants = function.needs_dataset if isinstance(function, TrainCommand) else takes(function, "dataset")
    if not wants:
        return trainer, _Subject(moving_clip(probe), probe.prompt, certain=False)
    folder = write_dataset(
        context.work_folder("one-clip") / "dataset", clips=1, width=probe.width, height=probe.height
    )
    clip, caption = first_clip(folder)
    return _with_dataset(function, name, folder), _Subject(clip, caption, certain=True)


def _with_dataset(function: Any, name: str, folder: Path) -> Any:
    if isinstance(function, TrainCommand):
        arguments = tuple(part.replace("{dataset}", str(folder)) for part in function.arguments)
        return replace(function, arguments=arguments)
    given = functools.partial(function, dataset=folder)
    given.__name__ = name  # type: ignore[attr-defined]
    return given


def _complaint(folder: Path) -> str:
    said = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.error"))]
    return f" ({said[0]})" if said else ""


def _inference(context: Context, subject: _Subject, row: Call) -> Conditions:
    """Inference for the first frame of the clip, at the size and number of frames that was trained on."""
    pipeline = context.candidate
    conditions = conditions_of(pipeline, _probe_of(context.probe, subject, {}))
    if not conditions.noisy or conditions.noisy not in row.tensors:
        return conditions
    ours, theirs = row.tensors[conditions.noisy].shape, conditions.calls[0].tensors[conditions.noisy].shape
    axes = pipeline.family.latent_axes
    if ours == theirs or len(ours) != len(axes) or len(theirs) != len(axes):
        return conditions
    sides = (dict(zip(axes, shape, strict=True)) for shape in (ours, theirs))
    for changes in _sizes(context.probe, pipeline, *sides):
        try:
            tried = conditions_of(pipeline, _probe_of(context.probe, subject, changes))
        except (ValueError, RuntimeError):  # a size that this pipeline cannot make
            continue
        if tried.calls[0].tensors[tried.noisy].shape == ours:
            return tried
    return conditions


def _sizes(
    probe: Probe, pipeline: Pipeline, ours: Mapping[str, int], theirs: Mapping[str, int]
) -> Iterator[dict[str, int]]:
    """Sizes of a probe whose latents may be those that were trained on."""
    changes = {
        side: getattr(probe, side) * ours[side] // theirs[side]
        for side in ("height", "width")
        if ours[side] != theirs[side]
    }
    if ours["frame"] == theirs["frame"]:
        yield changes
        return
    step = int(getattr(pipeline.diffusers, "vae_scale_factor_temporal", None) or 1)
    latent = ours["frame"]
    for frames in dict.fromkeys(((latent - 1) * step + 1, (latent - 2) * step + 1, latent)):
        if frames >= 1:
            yield {**changes, "frames": frames}


def _probe_of(probe: Probe, subject: _Subject, changes: Mapping[str, int]) -> Probe:
    import torch

    asked = probe.but(prompt=subject.caption, **changes)
    picture = subject.clip[:1]
    if picture.shape[-2:] != (asked.height, asked.width):
        picture = torch.nn.functional.interpolate(
            picture, (asked.height, asked.width), mode="bilinear", antialias=True
        )
    return asked.but(image=(picture[0] * 255).round().clamp(0, 255).div(255).contiguous())


def _known(rows: list[Call], inference: Conditions) -> bool:
    """Whether some row shares its text or image with inference: then the trainer sees the clip we think it sees."""
    for piece in inference.pieces:
        theirs = inference.value(piece)
        if piece.kind not in ("text", "image") or not theirs.is_floating_point():
            continue
        for row in rows:
            value = row.tensors.get(piece.path)
            if value is not None and value.whole and len(value.shape) == theirs.ndim:
                ours = piece.of(value.values) if value.shape[-1:] == theirs.shape[-1:] else value.values
                if ours.shape == theirs.shape and distance(ours, theirs) <= CLOSE:
                    return True
    return False


def _latents(
    context: Context, pipeline: Pipeline, subject: _Subject, rows: list[Call], inference: Conditions
) -> Iterator[Finding]:
    level = noise_level(pipeline.diffusers.scheduler)
    probe = inference.probe
    clip = subject.clip[: probe.frames]
    if level is None or len(clip) < probe.frames:
        return
    if clip.shape[-2:] != (probe.height, probe.width):
        import torch

        clip = torch.nn.functional.interpolate(
            clip, (probe.height, probe.width), mode="bilinear", antialias=True
        )
    try:
        clean = clean_latents(pipeline, clip, subject.caption)
    except (NotImplementedError, BadInputError):
        return  # a family without an objective: its noise level is not known here
    if clean is not None:
        yield from latent_findings(rows, inference.noisy, clean, level, context.measure)
