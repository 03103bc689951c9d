"""The part of coverage that looks at a LoRA: every factor that lives in the model is the file's, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.diagnosis.finding import Finding, finding_of
from pytest_genmodel.invariants.damage import damage_finding
from pytest_genmodel.pipelines.adapters import ADAPTER_NAME, AttachError, unattachable
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.residents import Resident, residents

NEVER_LOADED = "random: never loaded (on torch's meta device, where a run uses whatever lies in memory)"


def adapter_findings(pipeline: Pipeline, adapter: Adapter, *, load: bool) -> Iterator[Finding]:
    """Compare the attached factors with the file in both directions, then look at the file by itself.

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
            yield from _halves(denoiser, adapter)
        yield from _at_rest(denoiser, adapter)
    except DamagedFileError as error:
        yield damage_finding(error, denoiser)


def _refused(reason: str, pipeline: Pipeline, adapter: Adapter) -> Finding:
    return Finding(
        "GM801",
        f"the adapter cannot be attached: {reason}",
        component=pipeline.family.denoiser,
        location=adapter.file.name,
    )


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
    groups = {
        f"are in no file and are {NEVER_LOADED}": [
            bare for bare, r in attached.items() if bare not in stored and r.tensor.is_meta
        ],
        "are in no file and are random: freshly initialised": [
            bare for bare, r in attached.items() if bare not in stored and not r.tensor.is_meta
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


def _is_stored(resident: Resident, adapter: Adapter, name: str) -> bool:
    from pytest_genmodel.tensors import digest

    tensor = resident.tensor
    return digest(tensor.cpu()) == digest(adapter.weights.read(name).to(tensor.dtype))


def _halves(denoiser: str, adapter: Adapter) -> Iterator[Finding]:
    """By names alone: a lora_A without its lora_B, or the reverse, acts with random values."""
    names = {_bare(name, denoiser) for name in _factors(adapter)}
    lacking = [
        other
        for name in names
        for ours, theirs in (("lora_A", "lora_B"), ("lora_B", "lora_A"))
        if name.endswith(f".{ours}") and (other := f"{name.removesuffix(ours)}{theirs}") not in names
    ]
    if lacking:
        yield finding_of(
            "GM801",
            [f"{name}.weight" for name in sorted(lacking)],
            "are in no file, and their other halves are",
            noun="factors",
            component=denoiser,
            cause="the file holds a part of the adapter only",
            action="Save the complete adapter: lora_A and lora_B of every layer.",
        )


def _at_rest(denoiser: str, adapter: Adapter) -> Iterator[Finding]:
    factors = _factors(adapter)
    ups = [name for name in factors if ".lora_B." in name or ".lora_up." in name]
    if ups and not any(bool(adapter.weights.read(name).any()) for name in ups):
        yield Finding("GM802", f"all {len(ups)} lora_B are zero", component=denoiser, location=ups[0])
    has_alpha = "lora_alpha" in adapter.config or any(n.endswith(".alpha") for n in adapter.weights.tensors)
    if not has_alpha:
        yield Finding(
            "GM803",
            f"{adapter.file.name} does not say its alpha",
            component=denoiser,
            location=f"{adapter.file.name}:lora_alpha",
        )
    yield from _not_finite(denoiser, adapter)


def _not_finite(denoiser: str, adapter: Adapter) -> Iterator[Finding]:
    counts: dict[str, tuple[int, int]] = {}
    for name in adapter.weights.tensors:
        tensor = adapter.weights.read(name)
        if tensor.is_floating_point():
            if tensor.element_size() == 1:  # torch knows no isfinite of a float8
                tensor = tensor.float()
            if count := int((~tensor.isfinite()).sum()):
                counts[name] = (count, tensor.numel())
    if counts:
        first = next(iter(counts))
        count, total = counts[first]
        yield finding_of(
            "GM304",
            list(counts),
            "hold NaN or Inf",
            noun="factors",
            after=f"; in {first} {count} of {total} values",
            component=denoiser,
        )


def _factors(adapter: Adapter) -> list[str]:
    return [name for name in adapter.weights.tensors if not name.endswith(".alpha")]


def _bare(name: str, denoiser: str) -> str:
    """The factor's name without prefixes, and without the `.weight` that only some of a factor's names have."""
    return name.removeprefix("base_model.model.").removeprefix(f"{denoiser}.").removesuffix(".weight")
