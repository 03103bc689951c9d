"""The part of coverage that looks at a LoRA: every factor that lives in the model is the file's, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.keymaps.lora import PEFT_PREFIX, factor_of
from pytest_genmodel.checkpoints.progress import silent
from pytest_genmodel.diagnosis.at_rest.adapter import halves
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.damage import damage_finding
from pytest_genmodel.diagnosis.finding import Finding, finding_of
from pytest_genmodel.pipelines.adapters import ADAPTER_NAME, AttachError, unattachable
from pytest_genmodel.pipelines.loading import LoadError, skeleton
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.residents import Resident, residents

NEVER_LOADED = "random: never loaded (on torch's meta device, where a run uses whatever lies in memory)"


def adapter_findings(pipeline: Pipeline, adapter: Adapter, *, load: bool) -> Iterator[Finding]:
    """Compare the attached factors with the file in both directions.

    Args:
        pipeline: the candidate.
        adapter: its LoRA at rest.
        load: whether the adapter may be attached to the loaded model; otherwise names are compared alone.
    """
    denoiser = pipeline.family.denoiser
    try:
        if reason := unattachable(adapter.weights.tensors, pipeline.family):
            yield _refused(reason, pipeline, adapter)
        elif load:
            yield from _attached(pipeline, adapter)
        else:
            yield from halves(Part(denoiser, None, silent, own_weights=adapter.weights), adapter)
            yield from _misfits(pipeline, adapter)
        yield from _unplaced(denoiser, adapter)
    except DamagedFileError as error:
        yield damage_finding(error, denoiser)


def _refused(reason: str, pipeline: Pipeline, adapter: Adapter) -> Finding:
    return Finding(
        "GM801",
        f"the adapter cannot be attached: {reason}",
        component=pipeline.family.denoiser,
        location=adapter.file.name,
    )


def _unplaced(denoiser: str, adapter: Adapter) -> Iterator[Finding]:
    """Names of another trainer's that mean no layer of this denoiser, where the others do."""
    if names := list(adapter.weights.unexplained):
        yield finding_of(
            "GM801",
            names,
            "match no layer of the model",
            of=len(names) + len(adapter.weights.tensors),
            noun="factors of the file",
            component=denoiser,
            cause="they are for another component (lora_te is a text encoder), or for another model",
        )


def _misfits(pipeline: Pipeline, adapter: Adapter) -> Iterator[Finding]:
    """By names and shapes alone: factors that name no layer of the denoiser, or that do not fit theirs."""
    denoiser = pipeline.family.denoiser
    try:
        layers = dict(skeleton(pipeline.checkpoint.components[denoiser]).named_modules())
    except LoadError:
        return  # a finding of the denoiser's own
    nowhere, misfits = [], []
    for name in _factors(adapter):
        factor = factor_of(_bare(name, denoiser))
        if factor is None:
            continue  # a layer that was trained whole (modules_to_save)
        layer = layers.get(factor.module)
        if layer is None:
            nowhere.append(name)
        elif not _fits(factor.role, adapter.weights.tensors[name].shape, layer):
            misfits.append(name)
    if nowhere:
        yield finding_of(
            "GM801",
            nowhere,
            "match no layer of the model",
            of=len(_factors(adapter)),
            noun="factors of the file",
            component=denoiser,
            cause="they are for another component or another model, and a loader passes over them",
        )
    if misfits:
        shape = list(adapter.weights.tensors[misfits[0]].shape)
        yield finding_of(
            "GM801",
            misfits,
            "have a shape that does not fit their layer",
            of=len(_factors(adapter)),
            noun="factors of the file",
            after=f"; {misfits[0]} is {shape}",
            component=denoiser,
            cause="lora_A is (rank, inputs of the layer) and lora_B (outputs, rank): they were exchanged, or are for "
            "another model",
        )


def _fits(role: str, shape: tuple[int, ...], layer: Any) -> bool:
    if not hasattr(layer, "in_features") or len(shape) != 2:
        return True  # a convolution or an embedding: the loader says what it does not take
    if role == "lora_A":
        return bool(shape[1] == layer.in_features)
    return role != "lora_B" or bool(shape[0] == layer.out_features)


def _attached(pipeline: Pipeline, adapter: Adapter) -> Iterator[Finding]:
    denoiser = pipeline.family.denoiser
    try:
        live = residents(getattr(pipeline.diffusers, denoiser))
    except AttachError as error:
        yield Finding("GM801", str(error), component=denoiser, location=adapter.file.name)
        return
    attached = {
        _bare(name.replace(f".{ADAPTER_NAME}", ""), denoiser): resident
        for name, resident in live.items()
        if ADAPTER_NAME in name.split(".")
    }
    factors = _factors(adapter)
    absent = [name for name in factors if _bare(name, denoiser) not in attached]
    if absent:
        yield finding_of(
            "GM801",
            absent,
            "are not in the loaded model",
            of=len(factors),
            noun="factors",
            component=denoiser,
            cause="the names in the file match no layer, and diffusers passes over them with a log line at most",
        )
    changed = [
        name
        for name in factors
        if (resident := attached.get(_bare(name, denoiser))) is not None
        and not resident.tensor.is_meta
        and not _is_stored(resident, adapter, name)
    ]
    if changed:
        yield finding_of(
            "GM801",
            changed,
            "are in the loaded model with other values than the file's",
            of=len(factors),
            noun="factors",
            component=denoiser,
            cause="something changed them while the adapter was attached",
        )
    yield from _unbacked(denoiser, attached, {_bare(name, denoiser) for name in factors})


def _unbacked(denoiser: str, attached: dict[str, Resident], stored: set[str]) -> Iterator[Finding]:
    """What lives in the model and no file backs, or was never given its memory."""
    names = {bare: resident.name.replace(f".{ADAPTER_NAME}", "") for bare, resident in attached.items()}
    filled = _filled_up(attached, stored)
    groups = {
        f"are in no file and are {NEVER_LOADED}": [
            bare for bare, r in attached.items() if bare not in stored and r.tensor.is_meta
        ],
        "are in no file and are random: freshly initialised": [
            bare
            for bare, r in attached.items()
            if bare not in stored and not r.tensor.is_meta and _module(bare) not in filled
        ],
        f"are in the file, and are {NEVER_LOADED}": [
            bare for bare, r in attached.items() if bare in stored and r.tensor.is_meta
        ],
    }
    for state, members in groups.items():
        if members:
            yield finding_of(
                "GM801",
                [names[bare] for bare in members],
                state,
                of=len(attached),
                noun="factors of the loaded model",
                component=denoiser,
                cause="the file holds a part of the adapter only; the load says so in a log line at most",
                action="Save the complete adapter: lora_A and lora_B of every layer.",
            )


def _filled_up(attached: dict[str, Resident], stored: set[str]) -> set[str]:
    """Layers that are in no file and whose factors are zero, both of them: they add nothing.

    diffusers gives a LoRA of a text-to-video Wan such factors for the image's keys and values. What PEFT makes anew
    has a random lora_A.
    """
    added: dict[str, bool] = {}
    for bare, resident in attached.items():
        if bare not in stored and not resident.tensor.is_meta:
            module = _module(bare)
            added[module] = added.get(module, True) and not bool(resident.tensor.any())
    return {module for module, is_zero in added.items() if is_zero}


def _module(bare: str) -> str:
    return bare.rpartition(".lora_")[0]


def _is_stored(resident: Resident, adapter: Adapter, name: str) -> bool:
    from pytest_genmodel.tensors import digest

    tensor = resident.tensor
    return digest(tensor.cpu()) == digest(adapter.weights.read(name).to(tensor.dtype))


def _factors(adapter: Adapter) -> list[str]:
    return [name for name in adapter.weights.tensors if not name.endswith(".alpha")]


def _bare(name: str, denoiser: str) -> str:
    """The factor's name without prefixes, and without the `.weight` that only some of a factor's names have."""
    return name.removeprefix(PEFT_PREFIX).removeprefix(f"{denoiser}.").removesuffix(".weight")
