"""own_inference: the user's own inference shows the model that its files hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.adapter_strength import times
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.invariants.training_run import Trainer, context_of, train_once
from pytest_genmodel.pipelines.observables import psnr
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.probe import Probe
from pytest_genmodel.pipelines.video_files import Frames
from pytest_genmodel.training.trainers import trainer_named
from pytest_genmodel.transformations.adapter_files import with_other_ups
from pytest_genmodel.transformations.adapters import (
    AdapterBench,
    config_for,
    is_large,
    opened,
    typical_weight,
)
from pytest_genmodel.transformations.own_inference_guesses import guesses
from pytest_genmodel.transformations.own_sample import Asked, OwnInference, OwnInferenceError, inference_named

if TYPE_CHECKING:
    import torch

EXACT = {"float32": 2e-3, "bfloat16": 0.1, "float16": 0.02}
"""max |a-b| of pixels up to which a lossless result is ours, by our dtype: another attention kernel may be used."""
LEAST_PSNR = 25.0
"""dB between our frames and a lossy video of them: chroma is halved, and small clips suffer most."""
SAME_PSNR = 45.0
"""dB between two lossy videos of one clip."""


def _check(parameters: Mapping[str, Any]) -> None:
    if "sampler" in parameters:
        inference_named(parameters["sampler"])
    if parameters.get("trainer") is not None:
        trainer_named(parameters["trainer"])


@invariant(check=_check)
def own_inference(
    context: Context, *, sampler: str | Callable[..., Any], trainer: Trainer | None = None
) -> Iterator[Finding]:
    """The user's own inference makes of the candidate what ours makes of it; so that the two can be told apart.

    It is run first on a control: the reference (or a LoRA that does nothing). Where it makes there what ours makes,
    it must do so for the candidate too. Where it does not (other defaults, another device's noise), that is said, and
    only the relation is judged: what is the same must look the same, what differs must differ. With a `trainer`, the
    candidate is what it makes of the model at learning rate zero.
    """
    inference = OwnInference(
        inference_named(sampler),
        context.work_folder("inference"),
        context.policy.timeout,
        context.policy.echo,
    )
    if trainer is not None:
        trained = train_once(context, trainer, lr=context.policy.zero_rate, steps=1)
        if trained.checkpoint is None:
            context.cannot_judge("the trainer wrote nothing that can be sampled from (see zero_lr_identity)")
        context = replace(
            context_of(context, trained),
            reference_source=context.candidate_source,
            measurements=context.measurements,
        )
        if inference.takes("lora") and inference.is_command and trained.checkpoint.adapter is None:
            context.cannot_judge(
                "the trainer wrote a whole model, and your inference is given it as a {lora}"
            )
    control, judged = _sides(context, inference)
    pair = _Comparison(context, inference, control, judged)
    yield from _judged(pair)
    context.measure(inference_runs=inference.runs)


@dataclass(frozen=True)
class _Side:
    """One model as both see it: ours as a pipeline, theirs as paths; `name` in words."""

    name: str
    ours: Pipeline
    theirs: Asked


def _sides(context: Context, inference: OwnInference) -> tuple[_Side | None, _Side]:
    """Give the control, where there is one, and what is judged."""
    pipeline = context.candidate
    pipeline.require_backed()
    root, adapter = pipeline.checkpoint.root, pipeline.checkpoint.adapter
    if adapter is not None:
        if not inference.takes("lora"):
            context.cannot_judge(
                "the candidate is an adapter, and your inference is not given it: name {lora}"
            )
        folder = context.work_folder("control-adapter")
        nothing = with_other_ups(adapter, folder / "zero", typical=None)
        base = context.reference.checkpoint.root
        path = (
            adapter.folder
            if adapter.config and adapter.file.name.startswith("adapter_model")
            else adapter.file
        )
        return (
            _Side("a LoRA that does nothing", _with(pipeline, nothing), Asked(base, base, nothing)),
            _Side("the adapter", pipeline, Asked(base, base, path)),
        )
    if inference.is_command and inference.takes("lora"):
        return _made_adapters(context, pipeline)
    judged = _Side("the candidate", pipeline, Asked(root, root))
    if not context.has_reference:
        return None, judged
    reference = context.reference
    asked = Asked(reference.checkpoint.root, reference.checkpoint.root)
    return _Side("the reference", reference, asked), replace(
        judged, theirs=Asked(root, reference.checkpoint.root)
    )


def _made_adapters(context: Context, pipeline: Pipeline) -> tuple[_Side, _Side]:
    """The model with a LoRA that does nothing, and with one of random B whose alpha is not its rank."""
    if not pipeline.family.lora_targets:
        context.skip(f"your inference takes a {{lora}}, and diffusers takes none for {pipeline.family.name}")
    if is_large(pipeline):
        pipeline.release()
    bench = AdapterBench(pipeline, context.work_folder("adapters"))
    bench.add(config_for(pipeline), 0)
    nothing = bench.save()
    random = with_other_ups(
        nothing, bench.folder / "random", typical=typical_weight(bench.denoiser, bench.family)
    )
    root = pipeline.checkpoint.root
    return (
        _Side("a LoRA that does nothing", _with(pipeline, nothing.file), Asked(root, root, nothing.file)),
        _Side("a LoRA with random values", _with(pipeline, random), Asked(root, root, random)),
    )


def _with(pipeline: Pipeline, adapter: Any) -> Pipeline:
    checkpoint = replace(pipeline.checkpoint, adapter=None)
    return pipeline.derive(replace(checkpoint, adapter=opened(adapter, checkpoint)))


class _Comparison:
    """Ours and theirs, for the control and for what is judged."""

    def __init__(
        self, context: Context, inference: OwnInference, control: _Side | None, judged: _Side
    ) -> None:
        self.context, self.inference, self.control, self.judged = context, inference, control, judged
        self.probe: Probe = context.probe

    def ours(self, side: _Side) -> torch.Tensor:
        return side.ours.sample(self.probe).frames

    def theirs(self, side: _Side) -> Frames:
        return self.inference.sample(side.theirs, self.probe)

    def is_ours(self, theirs: Frames, ours: torch.Tensor) -> bool:
        """Whether their frames are ours, as far as their file can tell."""
        if theirs.values.shape != ours.shape:
            return False
        if theirs.is_lossy:
            return psnr(theirs.values, ours) >= LEAST_PSNR
        limit = EXACT[self.context.candidate.placement.dtype] + theirs.step
        return float((theirs.values - ours).abs().max()) <= limit

    def tells_apart(self, first: _Side, second: _Side, theirs: Frames) -> bool:
        """Whether a file like theirs can tell the two models apart, by our samples of them."""
        return not self.is_ours(replace(theirs, values=self.ours(first)), self.ours(second))


def _judged(pair: _Comparison) -> Iterator[Finding]:
    context, control, judged = pair.context, pair.control, pair.judged
    try:
        first = pair.theirs(control or judged)
    except OwnInferenceError as error:
        context.cannot_judge(f"your inference makes nothing of {(control or judged).name}: {error}")
    ours = pair.ours(control or judged)
    agrees = pair.is_ours(first, ours)
    context.measure(agrees_with_ours=agrees)
    if first.values.shape == ours.shape:
        context.measure(psnr_with_ours=min(psnr(first.values, ours), 200.0))
    if not agrees:
        broken = list(_differs(pair, control or judged, first, ours))
        yield from broken
        if any(finding.code == "GM834" for finding in broken):
            return  # whatever it shows next, it might have shown for anything
    if control is None:
        if not agrees:
            context.cannot_judge(
                "your inference is not ours, and without a reference (--genmodel-ref) nothing else can be compared"
            )
        return
    try:
        second = pair.theirs(judged)
    except OwnInferenceError as error:
        yield Finding(
            "GM830",
            f"your inference runs with {control.name} and makes nothing of {judged.name}: {error}",
            location="inference",
            cause="what the candidate's files hold loads here, and not by your load path",
        )
        return
    yield from _relation(pair, control, judged, first, second, agrees=agrees)
    if context.candidate.checkpoint.adapter is not None and not pair.tells_apart(control, judged, first):
        random = _random(context)  # what was trained is too little to be seen: a wrong scale would be, too
        yield from _relation(pair, control, random, first, pair.theirs(random), agrees=agrees)


def _random(context: Context) -> _Side:
    """The candidate's own adapter file with random values in its lora_B."""
    pipeline = context.candidate
    adapter = pipeline.checkpoint.adapter
    assert adapter is not None
    denoiser = pipeline.component(pipeline.family.denoiser)
    typical = typical_weight(denoiser, pipeline.family)
    path = with_other_ups(adapter, context.work_folder("random-adapter") / "random", typical=typical)
    base = context.reference.checkpoint.root
    return _Side("the adapter with random values", _with(pipeline, path), Asked(base, base, path))


def _differs(pair: _Comparison, side: _Side, theirs: Frames, ours: torch.Tensor) -> Iterator[Finding]:
    """Say how their inference differs from ours for one model; a warning where it may be meant so."""
    if theirs.values.shape != ours.shape:
        yield _other_shape(pair, theirs.values, ours)
        return
    again = pair.theirs(side)
    if not _same(again, theirs):
        yield Finding(
            "GM834",
            f"two runs of your inference with the seed {pair.probe.seed} differ: "
            f"max |a-b| {float((again.values - theirs.values).abs().max()):.3g} of pixels in [0, 1]",
            location="inference",
            cause="noise from the global random state instead of a seeded generator, or weights that were never "
            "loaded and are random in each run (strict=False)",
            evidence=_apart(again, theirs),
        )
        return
    away = f"{psnr(theirs.values, ours):.1f} dB between its frames and ours"
    explained = None
    if not is_large(side.ours) or pair.context.is_full:
        explained = next(
            (guess for guess in guesses(side.ours, pair.probe) if pair.is_ours(theirs, guess.frames())), None
        )
    yield Finding(
        "GM832",
        f"for {side.name}, your inference shows another video than ours ({away})"
        + (f": {explained.text}" if explained else ""),
        location="inference",
        severity=Severity.ERROR if explained and explained.is_fault else Severity.WARNING,
        cause=explained.text
        if explained
        else "other defaults, another dtype, another scheduler, or noise that "
        "is drawn on another device; only relations are judged",
    )


def _other_shape(pair: _Comparison, theirs: torch.Tensor, ours: torch.Tensor) -> Finding:
    frames = theirs.shape[0] != ours.shape[0]
    told = pair.inference.takes("frames") if frames else pair.inference.takes("height")
    what = (
        f"{theirs.shape[0]} frames, ours {ours.shape[0]}"
        if frames
        else f"pictures of {theirs.shape[3]}x{theirs.shape[2]}, ours of {ours.shape[3]}x{ours.shape[2]}"
    )
    return Finding(
        "GM832",
        f"your inference makes {what}, for the same probe",
        location="frames" if frames else "size",
        severity=Severity.ERROR if told else Severity.WARNING,
        cause="it is told the number and does not use it"
        if told
        else "it is not told the number: name {frames}, {height} and {width} in the command",
    )


def _relation(
    pair: _Comparison, control: _Side, judged: _Side, first: Frames, second: Frames, *, agrees: bool
) -> Iterator[Finding]:
    """What ours says of control and judged, theirs must say too."""
    ours_first, ours_second = pair.ours(control), pair.ours(judged)
    same = bool((ours_first == ours_second).all())
    if judged is pair.judged:
        pair.context.measure(same_by_ours=same, same_by_theirs=_same(first, second))
    if same:
        if not _same(first, second):
            away = f": {psnr(second.values, first.values):.1f} dB" if _fits(first, second) else ""
            yield Finding(
                "GM833",
                f"{control.name} and {judged.name} are the same model by weights, configuration and our sample, "
                f"and your inference shows two videos{away}",
                location="inference",
                cause="your load path reads one of them otherwise: names that it does not match, a format that it "
                "prefers, strict=False",
                evidence=_apart(second, first),
            )
        return
    if _same(first, second):
        if pair.tells_apart(control, judged, first):
            yield Finding(
                "GM831",
                f"your inference shows the same video for {judged.name} as for {control.name}; ours differ by "
                f"{float((ours_second - ours_first).abs().max()):.3g} (max |a-b| of pixels)",
                location="inference",
                cause="it loads the base instead of the candidate, the LoRA is not loaded or matches nothing, or the "
                "weights were passed over (strict=False)",
            )
        return
    if not agrees or pair.is_ours(second, ours_second):
        return
    strength = _strength(second, ours_first, ours_second) if judged.theirs.lora is not None else None
    yield Finding(
        "GM830",
        f"your inference shows {control.name} as ours does, and {judged.name} otherwise"
        + (f": the LoRA acts at about {strength} the strength" if strength else ""),
        location="inference",
        cause="alpha or a scale of your own (lora_scale, adapter weights)"
        if strength
        else "weights, configuration and our load of the candidate stand by themselves (see coverage): your load "
        "path reads something else",
    )


def _strength(theirs: Frames, without: torch.Tensor, with_it: torch.Tensor) -> str | None:
    """How much of our LoRA's effect theirs shows; None where what theirs shows points elsewhere."""
    if theirs.values.shape != without.shape:
        return None
    ours, seen = (with_it - without).flatten(), (theirs.values - without).flatten()
    along = float((ours * seen).sum()) / float((ours * ours).sum())
    turned = float((seen - along * ours).norm()) / (float(seen.norm()) or 1.0)
    return times(along) if turned < 0.7 and along > 0 else None


def _fits(first: Frames, second: Frames) -> bool:
    return first.values.shape == second.values.shape


def _apart(first: Frames, second: Frames) -> dict[str, Any]:
    """How far two results of theirs are from being the same video, as evidence."""
    if not _fits(first, second):
        return {}
    if first.is_lossy or second.is_lossy:
        return against(psnr(first.values, second.values), SAME_PSNR, "dB", least=True)
    away = float((first.values - second.values).abs().max())
    return against(away, 1e-6 + first.step, "max |a-b| of pixels")


def _same(first: Frames, second: Frames) -> bool:
    """Whether two results of theirs are the same video."""
    if not _fits(first, second):
        return False
    if first.is_lossy or second.is_lossy:
        return psnr(first.values, second.values) >= SAME_PSNR
    return float((first.values - second.values).abs().max()) <= 1e-6 + first.step
