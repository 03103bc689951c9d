"""coverage: every tensor that lives in the loaded model is what its file holds, and every file is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.names import is_adapter_name, summarise, unwrapped, wrapper_of
from pytest_genmodel.checkpoints.versions import spelled_as
from pytest_genmodel.checkpoints.weights import WeightSet, torch_dtype
from pytest_genmodel.diagnosis.at_rest.files import (
    came_with_base,
    foreign_classes,
    left_whole,
    second_sets,
    strays,
)
from pytest_genmodel.diagnosis.at_rest.fused import fused_copies
from pytest_genmodel.diagnosis.at_rest.lacking import lacking_in
from pytest_genmodel.diagnosis.at_rest.names import (
    empty_finding,
    empty_tensors,
    foreign_finding,
    others_inside,
)
from pytest_genmodel.diagnosis.damage import damage_finding
from pytest_genmodel.diagnosis.finding import Finding, finding_of, name_evidence
from pytest_genmodel.diagnosis.limit import beyond_tolerance
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.coverage_adapter import NEVER_LOADED, adapter_findings
from pytest_genmodel.invariants.coverage_files import contradiction_findings, missing_findings
from pytest_genmodel.invariants.registry import Level, invariant
from pytest_genmodel.invariants.tokens import tokenizer_findings
from pytest_genmodel.pipelines.loading import LoadError, skeleton
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.residents import Resident, Role, residents, tie_groups
from pytest_genmodel.pipelines.translated import as_library_names
from pytest_genmodel.pipelines.unusable import unusable_in

if TYPE_CHECKING:
    import torch

    from pytest_genmodel.tensors import Comparison


@invariant(level=Level.STATIC)
def coverage(context: Context) -> Iterator[Finding]:
    """Every tensor in the loaded model equals its file; nothing is unbacked, on meta, unread or stale.

    Never trusts a loader's report: the resident tensors, buffers included, are compared with the bytes at rest.
    A lossless or requested cast is followed: a tensor loaded in float16 must equal the stored one cast once.
    At the static level nothing is loaded: names and shapes that the configuration implies are compared.
    What the values are like by themselves is `sound_weights`' to say.
    """
    try:
        candidate = context.candidate
    except DamagedFileError as error:
        yield damage_finding(error)
        return
    base = _base(context)
    checked = 0
    yield from foreign_classes(candidate.checkpoint)
    yield from missing_findings(candidate)
    yield from contradiction_findings(candidate)
    load = context.policy.level is not Level.STATIC
    for name, component in candidate.checkpoint.components.items():
        try:
            _ = component.config  # a broken one is a finding of its own, before a loader trips over it
            yield from (came_with_base(found, candidate.checkpoint, base) for found in second_sets(component))
            lacking = [] if _is_tokenizer(name, component) else list(lacking_in(component))
            if lacking:
                yield from lacking
            elif component.has_weights:
                found = list(_loaded(candidate, component) if load else _at_rest(component))
                checked += len(component.weights.tensors)
                yield from found
            elif _is_tokenizer(name, component):
                yield from tokenizer_findings(candidate, name)
        except DamagedFileError as error:
            yield _damaged(component, error)
        except LoadError as error:
            yield _refused(component, error)
        except Exception as error:  # whatever a library raises on a value of another kind
            if isinstance(error, GenmodelError) or (odd := unusable_in(component)) is None:
                raise
            yield _damaged(component, odd)
    if candidate.checkpoint.adapter is not None:
        checked += len(candidate.checkpoint.adapter.weights.tensors)
        yield from adapter_findings(candidate, candidate.checkpoint.adapter, load=load)
    yield from (came_with_base(found, candidate.checkpoint, base) for found in strays(candidate.checkpoint))
    context.measure(tensors_compared=checked)
    if not checked:
        context.cannot_judge("no tensor was compared: the checkpoint holds no weights that could be read")


def _base(context: Context) -> Checkpoint | None:
    """The reference's files; None where there is none that can be opened, which is not for this claim to say."""
    try:
        return context.reference.checkpoint if context.has_reference else None
    except GenmodelError:
        return None


def _refused(component: Component, error: LoadError) -> Finding:
    odd = unusable_in(component)
    return Finding(
        "GM108",
        error.reason,
        component=component.name,
        location=f"{component.name}/",
        cause=str(odd) if odd is not None else None,
    )


def _is_tokenizer(name: str, component: Component) -> bool:
    """What is loaded to be asked for ids: it needs no weights, and its files differ from kind to kind."""
    return "tokenizer" in name.lower() and not component.has_weights


def _damaged(component: Component, error: DamagedFileError) -> Finding:
    found = damage_finding(error, component.name)
    if error.damage is Damage.MISSING_FILE and (whole := left_whole(component)):
        action = (
            f"Delete {component.file_sets[0].name}: an older save left it behind, and {whole} is complete."
        )
        found = replace(found, action=action)
    return found


def _loaded(pipeline: Pipeline, component: Component) -> Iterator[Finding]:
    stored = component.weights
    try:
        loaded = pipeline.loaded(component.name)
    except LoadError as error:
        yield from _at_rest(component)
        yield _refused(component, error)
        return
    tensors = residents(loaded.module)
    state = NEVER_LOADED if loaded.meta else "random: freshly initialised"
    yield from _names(component.name, loaded.module, tensors, stored, state)
    yield from _values(component.name, tensors, stored)


def _at_rest(component: Component) -> Iterator[Finding]:
    """What the files say against the model that the configuration makes, without loading it."""
    module = skeleton(component)
    tensors = residents(module)
    stored = spelled_as(tensors, as_library_names(module, component.weights))
    yield from _shapes(component.name, tensors, stored)
    yield from _names(component.name, module, tensors, stored, "backed by nothing")


def _shapes(name: str, tensors: Mapping[str, Resident], stored: WeightSet) -> Iterator[Finding]:
    empty = [
        tensor for tensor in empty_tensors(stored) if tensor in tensors and tensors[tensor].tensor.numel()
    ]
    if empty:
        yield empty_finding(name, empty, len(stored.tensors))
    for tensor, resident in tensors.items():
        at_rest = stored.tensors.get(tensor)
        if tensor not in empty and at_rest is not None and at_rest.shape != tuple(resident.tensor.shape):
            yield Finding(
                "GM204",
                f"{tensor} is {list(at_rest.shape)} in {at_rest.file.name} and the configuration makes it "
                f"{list(resident.tensor.shape)}",
                component=name,
                location=tensor,
                evidence={"stored": list(at_rest.shape), "model": list(resident.tensor.shape)},
            )


def _names(
    name: str, module: object, tensors: Mapping[str, Resident], stored: WeightSet, state: str
) -> Iterator[Finding]:
    unbacked = [
        tensor
        for tensor, resident in tensors.items()
        if tensor not in stored.tensors and resident.role is not Role.TRANSIENT
    ]
    unbacked = _without_ties(unbacked, tensors, stored)
    unread = [tensor for tensor in stored.tensors if tensor not in tensors]
    unread = _without_ignored(unread, module)
    fused = fused_copies(stored, unread)
    unread = [tensor for tensor in unread if tensor not in fused]
    unbacked, unread = _without_renamed(unbacked, unread, tensors, stored)
    if not unbacked and not unread:
        return
    wrapped = [tensor for tensor in unread if is_adapter_name(tensor)]
    prefixed = [tensor for tensor in unread if wrapper_of(tensor) is not None]
    cause = None
    if wrapped:
        yield _adapter_wrapped(name, wrapped, unbacked, state)
        cause = "the file was saved while a LoRA was attached (GM203)"
        unread = [tensor for tensor in unread if tensor not in wrapped]
        unbacked = [tensor for tensor in unbacked if tensor not in set(map(unwrapped, wrapped))]
    elif prefixed:
        prefix, who = wrapper_of(prefixed[0]) or ("", "")
        yield Finding(
            "GM205",
            f"{len(prefixed)} stored names carry {prefix!r}, which {who} puts there; "
            f"{len(unbacked)} tensors of the model are not backed by the file",
            component=name,
            location=prefixed[0],
            cause=f"the wrapped model was saved, not the model inside it ({who})",
            evidence={"prefix": prefix, **name_evidence(prefixed)},
        )
        cause = f"the names in the file carry {prefix!r} (GM205)"
        unread = [tensor for tensor in unread if tensor not in prefixed]
        unbacked = [tensor for tensor in unbacked if tensor not in set(map(unwrapped, prefixed))]
    if unbacked:
        yield _unbacked(name, unbacked, len(tensors), state, cause)
    for other, names in others_inside(name, unread).items():
        yield foreign_finding(name, other, names, len(stored.tensors))
        unread = [tensor for tensor in unread if tensor not in set(names)]
    if unread:
        yield finding_of(
            "GM202", unread, "have no place in the model", noun="stored tensors", component=name, cause=cause
        )


def _adapter_wrapped(name: str, wrapped: list[str], unbacked: list[str], state: str) -> Finding:
    bases = [tensor for tensor in wrapped if ".base_layer." in tensor]
    stored_bare = set(map(unwrapped, bases))
    targets = [tensor for tensor in unbacked if tensor in stored_bare] or unbacked
    factors = len(wrapped) - len(bases)
    message = (
        f"the file is adapter-wrapped ({len(bases)} tensors named *.base_layer.*, {factors} LoRA factors), and "
        f"a bare model reads it: {len(targets)} tensors are {state}: {summarise(targets)}"
        if targets
        else f"{factors} LoRA factors lie in the file of a bare model, which passes over them"
    )
    return Finding(
        "GM203",
        message,
        component=name,
        location=targets[0] if targets else wrapped[0],
        cause=f"the {name} was saved while its LoRA was still attached, and was loaded without it; the loader "
        "reports missing keys as a log line at most (zai-org/CogVideo issue 374)",
        evidence={
            "base_layers": len(bases),
            "lora_factors": factors,
            "stored_as": wrapped[:4],
            **name_evidence(targets),
        },
    )


def _unbacked(name: str, unbacked: list[str], total: int, state: str, cause: str | None) -> Finding:
    return finding_of(
        "GM201",
        unbacked,
        f"are in no file and are {state}",
        of=total,
        component=name,
        cause=cause or "the file holds a part of the state dict only, or names them otherwise",
    )


def _without_ties(unbacked: list[str], tensors: Mapping[str, Resident], stored: WeightSet) -> list[str]:
    """A tied tensor is backed when any of its names is stored."""
    backed = {
        name
        for group in tie_groups(tensors)
        if any(member in stored.tensors for member in group)
        for name in group
    }
    return [name for name in unbacked if name not in backed]


def _without_ignored(unread: list[str], module: object) -> list[str]:
    """Drop what the class itself declares as not its own (the decoder in a T5 encoder's file)."""
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    return [name for name in unread if not any(re.search(pattern, name) for pattern in patterns)]


def _without_renamed(
    unbacked: list[str], unread: list[str], tensors: Mapping[str, Resident], stored: WeightSet
) -> tuple[list[str], list[str]]:
    """Pair names that the library itself translates while loading: equal content settles it.

    Content is that in the dtype of the loaded tensor: a cast is followed here as it is in `_values`.
    """
    from pytest_genmodel.tensors import digest

    loaded = {tensors[name].tensor.dtype for name in unbacked if not tensors[name].tensor.is_meta}
    if not loaded or not unread:
        return unbacked, unread
    by_content: dict[str, list[str]] = {}
    for name in unread:
        for content in {_content(stored, name, dtype) for dtype in loaded}:
            by_content.setdefault(content, []).append(name)
    renamed: set[str] = set()
    ties = {name: group for group in tie_groups(tensors) for name in group}
    for name in unbacked:
        tensor = tensors[name].tensor
        if name in renamed or tensor.is_meta:
            continue
        source = next((other for other in by_content.get(digest(tensor), ()) if other not in renamed), None)
        if source is not None:
            renamed.update((name, source, *ties.get(name, ())))
    return [n for n in unbacked if n not in renamed], [n for n in unread if n not in renamed]


def _content(stored: WeightSet, name: str, dtype: torch.dtype) -> str:
    """The digest of a stored tensor once it is loaded in `dtype`."""
    from pytest_genmodel.tensors import digest

    own = torch_dtype(stored.tensors[name].dtype)
    is_cast = own != dtype and own.is_floating_point and dtype.is_floating_point
    return digest(stored.read(name).to(dtype)) if is_cast else stored.digest(name)


def _values(name: str, tensors: Mapping[str, Resident], stored: WeightSet) -> Iterator[Finding]:
    from pytest_genmodel.tensors import bitwise, compare

    changed: list[str] = []
    apart: list[Comparison] = []
    never_loaded: list[str] = []
    not_finite: dict[str, int] = {}
    for tensor_name, resident in tensors.items():
        tensor = resident.tensor
        if tensor_name not in stored.tensors:
            continue
        if tensor.is_meta:
            never_loaded.append(tensor_name)
            continue
        at_rest = stored.read(tensor_name).to(tensor.dtype)
        comparison = compare(tensor, at_rest, bitwise, in_detail=False)
        if not comparison.passed:
            changed.append(tensor_name)
            apart.append(comparison)
        elif overflowed := _overflowed(tensor, stored, tensor_name):
            not_finite[tensor_name] = overflowed
    if never_loaded:
        yield finding_of(
            "GM201",
            never_loaded,
            f"are in the file, and are {NEVER_LOADED}",
            of=len(tensors),
            component=name,
            cause="the load left them out, and said so in a log line at most",
        )
    if changed:
        first = tensors[changed[0]].tensor
        comparison = compare(first, stored.read(changed[0]).to(first.dtype), bitwise)
        looks = f"; {changed[0]} looks like this: {comparison.likeness.text}" if comparison.likeness else ""
        yield finding_of(
            "GM303",
            changed,
            "are not what the file holds",
            noun="of the loaded model's tensors",
            after=looks,
            component=name,
            cause=comparison.likeness.hint if comparison.likeness else None,
            evidence=beyond_tolerance([comparison, *apart[1:]]),
        )
    if not_finite:
        first_name = next(iter(not_finite))
        dtype = str(tensors[first_name].tensor.dtype).removeprefix("torch.")
        yield finding_of(
            "GM304",
            list(not_finite),
            f"are finite in the file and hold Inf once they are loaded in {dtype}",
            noun="tensors",
            after=f"; in {first_name} {not_finite[first_name]} of {tensors[first_name].tensor.numel()} values",
            component=name,
            cause=f"the values are too large for {dtype}",
            action="Load the component in the dtype of its file, or in bfloat16.",
        )


def _overflowed(tensor: torch.Tensor, stored: WeightSet, name: str) -> int:
    """How many values are finite in the file and not in memory: the cast to the model's dtype made Inf of them."""
    if not tensor.is_floating_point() or tensor.dtype == torch_dtype(stored.tensors[name].dtype):
        return 0
    odd = ~tensor.isfinite()
    return int((odd & stored.read(name).to(odd.device).isfinite()).sum()) if bool(odd.any()) else 0
