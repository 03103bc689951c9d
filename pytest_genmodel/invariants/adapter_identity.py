"""adapter_identity: a LoRA that is new, off or unloaded leaves the model alone; merged, it is what its file says."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.names import summarise
from pytest_genmodel.checkpoints.products import Products, more_than_products, products
from pytest_genmodel.diagnosis.adapter_strength import Strength, strength, strength_findings, times
from pytest_genmodel.diagnosis.finding import Finding, finding_of, name_evidence
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import invariant
from pytest_genmodel.pipelines.adapters import AttachError
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.transformations.adapter_files import with_other_ups
from pytest_genmodel.transformations.adapters import (
    AdapterBench,
    ModelState,
    config_for,
    is_large,
    opened,
    state_of,
    typical_weight,
)

if TYPE_CHECKING:
    import torch

LIMIT = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""How far merged may be from attached, as a share of the adapter's own effect on one prediction. In 16 bits the
merged weight is rounded once more than the attached one: there the weights are judged, and outputs coarsely."""


@invariant
def adapter_identity(context: Context, *, seed: int = 0) -> Iterator[Finding]:
    """A LoRA that is new, off or unloaded leaves the model alone; saved, loaded and merged it acts as its file says.

    A new adapter has B = 0, which makes any prefix or scale look right: so B is made random, and what is merged is
    compared with W + alpha/r x B @ A, worked out from the file in float64. Where the candidate is an adapter, its own
    layers, ranks, alpha and names are taken. One prediction of the denoiser stands for a sample.
    """
    pipeline = context.candidate
    _check_applies(context, pipeline)
    pipeline.require_backed()
    if is_large(pipeline):
        pipeline.release()  # never two denoisers in memory
    trial = _Trial.begin(context, pipeline)
    yield from _new_and_off(trial, seed)
    saved, scalings = trial.bench.save(), trial.bench.scalings()
    context.measure(alpha_without_metadata=_alpha_alone(trial))
    if left := list(_unloaded(trial)):
        yield from left
        return  # whatever comes next would start from another model
    if not trial.bench.has_loader:
        context.measure(load_path="none: diffusers loads no LoRA into this kind of pipeline")
        context.measure(denoiser_calls=trial.calls)
        return
    yield from _loaded_again(trial, saved, scalings)
    adapter = saved
    if pipeline.checkpoint.adapter is not None:
        trial.bench.unload()
        adapter = _own_layout(trial, pipeline.checkpoint.adapter, seed)
        trial.bench.attach(adapter)
        trial.attached = trial.predict()
    yield from _merged(trial, adapter)
    context.measure(denoiser_calls=trial.calls)


def _check_applies(context: Context, pipeline: Pipeline) -> None:
    if importlib.util.find_spec("peft") is None:
        context.skip("peft is not installed (pip install 'pytest-genmodel[lora]')")
    family = pipeline.family
    if not family.lora_targets:
        context.skip(f"diffusers takes no LoRA for {family.name}")
    if pipeline.checkpoint.adapter is not None:
        if reason := more_than_products(pipeline.checkpoint.adapter):
            context.skip(f"the adapter adds more than alpha/r x B @ A: {reason}")
        if not products(pipeline.checkpoint.adapter).names:
            context.cannot_judge("the adapter has no layer with both factors (see coverage)")


@dataclass
class _Trial:
    """The bench with what was seen on it: predictions are float32, on the CPU."""

    context: Context
    bench: AdapterBench
    base: ModelState
    predict_once: partial[torch.Tensor]
    plain: torch.Tensor
    on: torch.Tensor
    attached: torch.Tensor
    calls: int = 1

    @classmethod
    def begin(cls, context: Context, pipeline: Pipeline) -> _Trial:
        """Build the bench, record the inputs, and see what the base predicts from them."""
        bench = AdapterBench(pipeline, context.work_folder("adapters"))
        call = bench.record(context.probe)
        predict = partial(call.run, bench.denoiser)
        plain = predict()
        context.measure(pipeline_runs=1)
        return cls(context, bench, state_of(bench.denoiser), predict, plain, plain, plain)

    @property
    def denoiser(self) -> str:
        return self.bench.family.denoiser

    @property
    def dtype(self) -> str:
        return self.context.candidate.placement.dtype

    @property
    def effect(self) -> float:
        """How far the adapter moves the prediction: the norm of the difference."""
        return float((self.on - self.plain).norm())

    def predict(self) -> torch.Tensor:
        self.calls += 1
        return self.predict_once()


def _new_and_off(trial: _Trial, seed: int) -> Iterator[Finding]:
    bench, plain = trial.bench, trial.plain
    bench.add(config_for(trial.context.candidate), seed)
    worn = state_of(bench.denoiser)
    if changed := worn.changed(trial.base):
        yield finding_of(
            "GM829",
            changed,
            "changed when a new adapter was put on",
            of=len(trial.base.tensors),
            component=trial.denoiser,
            cause="an initialisation that takes its share out of the base (PiSSA, OLoRA), or a cast of the base",
        )
    if away := _distance(trial.predict(), plain):
        yield Finding(
            "GM820",
            f"a new adapter moves the prediction by {away:.3g} (max |a-b|); nothing was trained",
            component=trial.denoiser,
            location="prediction",
            cause="lora_B does not start at zero, the base was cast, or dropout is on",
            evidence=against(away, 0.0, "max |a-b|"),
        )
    bench.randomise_ups(seed)
    trial.on = trial.predict()
    trial.context.measure(effect=trial.effect / (float(plain.norm()) or 1.0))
    if not trial.effect > 0:
        trial.context.cannot_judge(
            "a random adapter does not move the prediction"
            if trial.effect == 0
            else "the prediction holds NaN or Inf"
        )
    ways: tuple[tuple[str, Callable[[], None], Callable[[], None]], ...] = (
        ("switched off", partial(bench.switch, False), partial(bench.switch, True)),
        ("at weight 0", partial(bench.weigh, 0.0), partial(bench.weigh, 1.0)),
    )
    for how, off, on in ways:
        off()
        if away := _distance(trial.predict(), plain):
            yield Finding(
                "GM821",
                f"{how}, the adapter still moves the prediction by {away:.3g} (max |a-b|; on, by "
                f"{_distance(trial.on, plain):.3g})",
                component=trial.denoiser,
                location="prediction",
                cause="a layer does not look at the switch, or the weights under the adapter are not the base's",
                evidence={"how": how, **against(away, 0.0, "max |a-b|")},
            )
        on()
    if away := _distance(trial.predict(), trial.on):
        yield Finding(
            "GM821",
            f"switched on again, the adapter moves the prediction elsewhere, by {away:.3g} (max |a-b|)",
            component=trial.denoiser,
            location="prediction",
            cause="its scale did not come back",
            evidence=against(away, 0.0, "max |a-b|"),
        )


def _alpha_alone(trial: _Trial) -> str:
    """What becomes of alpha where the save call is not given the configuration: the installed diffusers' habit."""
    found = products(trial.bench.save(alpha=False)).scales
    said = [scale for scale in found.by_module.values() if scale is not None]
    return (
        "kept" if said else "lost: a file saved without *_lora_adapter_metadata is loaded with alpha = rank"
    )


def _unloaded(trial: _Trial) -> Iterator[Finding]:
    trial.bench.unload()
    found = state_of(trial.bench.denoiser).differences(trial.base)
    if found:
        names = [line.partition(":")[0] for line in found]
        yield Finding(
            "GM822",
            f"{len(found)} things are not as before the adapter: {'; '.join(found[:3])}",
            component=trial.denoiser,
            location=names[0],
            cause="layers stay wrapped, or weights that were changed under the adapter are not put back",
            evidence=name_evidence(names),
        )


def _loaded_again(trial: _Trial, saved: Adapter, scalings: dict[str, float]) -> Iterator[Finding]:
    try:
        trial.bench.attach(saved)
    except AttachError as error:
        yield Finding(
            "GM825",
            f"what was saved does not load again: {error}",
            component=trial.denoiser,
            location=saved.file.name,
        )
        trial.context.cannot_judge("the adapter that was saved cannot be loaded again (GM825)")
    trial.attached = trial.predict()
    away = float((trial.attached - trial.on).norm()) / trial.effect
    trial.context.measure(reload_error_over_effect=away)
    if not away <= LIMIT[trial.dtype] / 10:
        now = trial.bench.scalings()
        other = next((name for name in scalings if name in now and now[name] != scalings[name]), None)
        how = (
            f": {other} acts at {times(now[other] / scalings[other])} the strength (scale {scalings[other]:g} in "
            f"memory, {now[other]:g} loaded)"
            if other
            else ""
        )
        yield Finding(
            "GM825",
            f"saved and loaded again, the adapter moves the prediction otherwise, by {away:.3g} of its effect{how}",
            component=trial.denoiser,
            location=saved.file.name,
            cause=_cause_of_reload(saved),
            evidence={
                "error_over_effect": away,
                **against(away, LIMIT[trial.dtype] / 10, "of the adapter's effect"),
            },
        )


def _cause_of_reload(saved: Adapter) -> str:
    said = products(saved).scales
    if not said.rank_by_module:
        return "what was saved holds no factor under a name that is read"
    if all(scale is None for scale in said.by_module.values()):
        return "the file says no alpha, and alpha = rank was taken"
    return "factors were lost, exchanged or cast by the save, or the load did not find them"


def _own_layout(trial: _Trial, adapter: Adapter, seed: int) -> Adapter:
    """The candidate's own file with random lora_B: its names, its ranks, and its places of alpha."""
    typical = typical_weight(trial.bench.denoiser, trial.bench.family)
    path = with_other_ups(adapter, trial.bench.folder / "own", typical=typical, seed=seed)
    return opened(path, trial.bench.checkpoint)


def _merged(trial: _Trial, adapter: Adapter) -> Iterator[Finding]:
    bench, dtype = trial.bench, trial.dtype
    said = products(adapter)
    before = bench.weights(said.names)
    bench.merge()
    after = bench.weights(said.names)
    found = _strengths(said, before, after)
    trial.context.measure(layers=len(found), of_layers=len(said.names))
    if not found:
        trial.context.cannot_judge(
            "no layer of the adapter is in the model, or rounding hides what was merged"
        )
    faults = list(strength_findings(found, trial.denoiser, f"of the merged model ({dtype})"))
    yield from faults
    effect = float((trial.attached - trial.plain).norm())
    error = float((trial.predict() - trial.attached).norm()) / effect if effect else 0.0
    trial.context.measure(merge_error_over_effect=error)
    if not error <= LIMIT[dtype]:
        yield Finding(
            "GM823",
            f"merged, the adapter moves the prediction otherwise than attached: by {error:.3g} of its effect "
            f"(limit in {dtype}: {LIMIT[dtype]:g})",
            component=trial.denoiser,
            location="prediction",
            cause=faults[0].cause
            if faults
            else "the merged weights are right: the adapter acts once more beside them",
            evidence={
                "error_over_effect": error,
                **against(error, LIMIT[dtype], "of the adapter's effect"),
            },
        )
    bench.unmerge()
    yield from _unmerged(trial, said, before, bench.weights(said.names))


def _strengths(
    said: Products, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> list[Strength]:
    import torch

    found = []
    for module in said.names:
        product = said.read(module)
        if module not in before:
            found.append(Strength(module, product.rank, product.scale, 0.0, "ignored"))
            continue
        old, new = (weights[module].double().flatten(1) for weights in (before, after))
        step = torch.finfo(after[module].dtype).eps
        rounding = step * float(new.norm() + 2 * (new - old).norm())
        if layer := strength(module, product, new - old, rounding):
            found.append(layer)
    return found


def _unmerged(
    trial: _Trial, said: Products, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> Iterator[Finding]:
    """Taking out what was put in leaves at most what the two additions rounded away."""
    import torch

    left: dict[str, float] = {}
    worst = 0.0
    for module, weight in before.items():
        old, new = weight.double(), after[module].double()
        product = said.read(module)
        size = abs(product.scale) * float(product.unscaled.norm())
        rest = float((new - old).norm())
        worst = max(worst, rest / size if size else 0.0)
        if not rest <= 2 * torch.finfo(weight.dtype).eps * (float(old.norm()) + 2 * size):
            left[module] = rest / size if size else float("inf")
    trial.context.measure(unmerge_rest_over_merged=worst)
    if left:
        names = sorted(left, key=lambda name: -left[name])
        yield Finding(
            "GM824",
            f"{len(names)} of {len(before)} layers are not as before the merge: up to {max(left.values()):.3g} of "
            f"what was merged is still there: {summarise(names)}",
            component=trial.denoiser,
            location=names[0],
            cause="unmerging does nothing, takes out another share than was put in, or comes after an unload that "
            "threw the factors away",
            evidence=name_evidence(names),
        )


def _distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """max |a-b|; infinite where one of them is no number."""
    away = float((ours - theirs).abs().max())
    return away if away == away else float("inf")
