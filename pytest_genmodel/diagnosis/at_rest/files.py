"""What files and folders show before a tensor is read: code, foreign classes, second sets, strays, lone shards."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.component import Component, FileSet
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.formats.lora_adapter import DIFFUSERS_NAME, PEFT_NAME, PEFT_PICKLE
from pytest_genmodel.checkpoints.scripts import TRAINER_SCRIPTS
from pytest_genmodel.checkpoints.shard_index import shard_of
from pytest_genmodel.checkpoints.weights import WeightSet, open_weights
from pytest_genmodel.diagnosis.difference.windows import Windows
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity

_DTYPE = re.compile(r"fp16|bf16|fp32")
"""Variants that are named after a dtype; another (`non_ema`) may hold whatever it says."""
_LOOKED_AT = 24
_ROUNDING, _SMALLEST = 2.0**-8, 2.0**-24
"""What rounding to bfloat16 changes at most, relative to the norm, and the smallest step of float16."""


def foreign_classes(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Components whose class comes with the checkpoint, or from a library that is never imported."""
    for name, cls in checkpoint.foreign.items():
        yield Finding(
            "GM104",
            f"the model index names {cls}, a class of neither diffusers nor transformers; it was not imported",
            component=name,
            location=f"model_index.json:{name}",
            action="Do not run code that comes with a checkpoint: name a class of diffusers or transformers, or "
            "leave the component out.",
        )


def second_sets(component: Component) -> Iterator[Finding]:
    """A second weight set, and weights files that belong to no set, in one component's folder."""
    for stale in component.second_sets:
        read = component.file_sets[0]
        if not all(path.is_file() for path in read.files):
            continue  # the set that is read is not whole, which is said when it is read
        times = [max((p.stat().st_mtime for p in s.files if p.is_file()), default=0.0) for s in (stale, read)]
        newer = times[0] > times[1]
        if _is_the_same(stale, component):
            yield Finding(
                "GM105",
                f"{component.library} reads {read.name}; {stale.name} beside it holds the same tensors",
                component=component.name,
                location=stale.name,
                severity=Severity.NOTE,
                action="Nothing to do.",
                evidence={"read": read.name, "passed_over": stale.name, "same_tensors": True},
            )
            continue
        yield Finding(
            "GM105",
            f"{component.library} reads {read.name} and passes over {stale.name}"
            + (", which is newer" if newer else ""),
            component=component.name,
            location=stale.name,
            evidence={"read": read.name, "passed_over": stale.name, "passed_over_is_newer": newer},
        )
    for path in component.unread_files:
        yield Finding(
            "GM106",
            f"{path.name} lies beside the weights and nobody reads it",
            component=component.name,
            location=path.name,
        )


def other_variants(component: Component) -> Iterator[Finding]:
    """A variant in another dtype (`.fp16.`) beside the weights, that is not these weights rounded."""
    read = component.file_sets[0] if component.file_sets else None
    if read is None or read.variant is not None:
        return
    for other in component.file_sets[1:]:
        if other.variant is None or not _DTYPE.fullmatch(other.variant) or _is_rounded(other, component):
            continue
        yield Finding(
            "GM105",
            f"{other.name} holds other weights than {read.name}: "
            f"who asks for the variant {other.variant} gets another model",
            component=component.name,
            location=other.name,
            severity=Severity.WARNING,
            cause="the weights were saved again, and the variant is still that of the save before (or the base's)",
            evidence={"read": read.name, "variant": other.variant},
        )


def _is_rounded(other: FileSet, component: Component) -> bool:
    """Whether a few stretches of a few tensors are ours, as far as either dtype holds them; unreadable ones are not
    spoken of here."""
    try:
        ours, theirs = component.weights, open_weights(other.files)
        names = [name for name in ours.tensors if name in theirs.tensors]
        with Windows(ours) as left, Windows(theirs) as right:
            for name in names[:: max(1, len(names) // _LOOKED_AT)]:
                if ours.tensors[name].shape != theirs.tensors[name].shape:
                    return False
                a, b = left.glance(name), right.glance(name)
                if float((a - b).norm()) > _ROUNDING * float(a.norm()) + _SMALLEST * len(a):
                    return False
    except DamagedFileError:
        return True
    return True


def _is_the_same(stale: FileSet, component: Component) -> bool:
    """Whether a set that is passed over says what the one that is read says; it is read to the end for that."""
    try:
        return hold_the_same(open_weights(stale.files), component.weights)
    except DamagedFileError:
        return False


def hold_the_same(ours: WeightSet, theirs: WeightSet) -> bool:
    """Whether each tensor of either is in the other: under its name, or, where it is tied, under another."""
    shared = ours.tensors.keys() & theirs.tensors.keys()
    if not shared or any(
        (ours.tensors[name].dtype, ours.tensors[name].shape)
        != (theirs.tensors[name].dtype, theirs.tensors[name].shape)
        for name in shared
    ):
        return False
    if any(ours.digest(name) != theirs.digest(name) for name in sorted(shared)):
        return False
    contents = {theirs.digest(name) for name in shared}
    alone = [*((ours, name) for name in ours.tensors.keys() - shared)]
    alone += [*((theirs, name) for name in theirs.tensors.keys() - shared)]
    return all(weights.digest(name) in contents for weights, name in alone)


def came_with_base(finding: Finding, checkpoint: Checkpoint, base: Checkpoint | None) -> Finding:
    """The finding as a note, where the file that nobody reads lies beside the reference's weights too, byte for byte.

    Such a file is no result of the training: the base was published with it (a whole model in one file beside the
    components, weights for another framework).
    """
    if base is None or finding.code != "GM106" or finding.location is None:
        return finding
    place = Path(finding.component or "") / finding.location
    ours, theirs = checkpoint.root / place, base.root / place
    if not (ours.is_file() and theirs.is_file()):
        return finding
    if not (ours.samefile(theirs) or filecmp.cmp(ours, theirs, shallow=False)):
        return finding
    return replace(
        finding,
        message=f"{finding.message}; the reference has the same file",
        severity=Severity.NOTE,
        action="Nothing to do: it came with the base model.",
    )


def left_whole(component: Component) -> str | None:
    """The set that lies complete beside one of which files are missing; None where there is none."""
    try:
        sets = component.second_sets
    except DamagedFileError:
        return None
    return next((s.name for s in sets if all(path.is_file() for path in s.files)), None)


def strays(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Weights files and components' folders that lie beside the components, and that nothing names."""
    for path in checkpoint.unread:
        action: str | None = None
        if path.is_dir():
            what = f"{path.name}/ holds a model, and it is none of the components that are read"
            action = "Give the folder by itself as --genmodel-ckpt if it is the result; else move it away."
        elif path.name in (DIFFUSERS_NAME, PEFT_NAME, PEFT_PICKLE):
            what = f"{path.name} lies beside the components, and loading the pipeline does not attach it"
            action = "Give the file itself as --genmodel-ckpt if the LoRA is the result; else move it away."
        else:
            what = f"{path.name} lies beside the components and nobody reads it"
        yield Finding("GM106", what, location=path.name, action=action)


def scripts(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Programs and pickles in the checkpoint. None is run here; what a trainer is known to leave is a note."""
    for known in (True, False):
        found = [path for path in checkpoint.scripts if (path.name in TRAINER_SCRIPTS) is known]
        if found:
            named = [_place(path, checkpoint) for path in found]
            more = f" and {len(named) - 4} more" if len(named) > 4 else ""
            yield Finding(
                "GM110",
                f"{', '.join(named[:4])}{more} {'lies' if len(named) == 1 else 'lie'} in the checkpoint; not run here"
                + (" (DeepSpeed leaves it beside every checkpoint)" if known else ""),
                location=named[0],
                severity=Severity.NOTE if known else None,
                action="Nothing to do; the weights are read without it." if known else None,
                evidence={"files": named[:20]},
            )


def _place(path: Path, checkpoint: Checkpoint) -> str:
    inside = path.is_relative_to(checkpoint.root)
    return path.relative_to(checkpoint.root).as_posix() if inside else path.name


def code_asked_for(component: Component) -> Iterator[Finding]:
    """A configuration that wants code imported from the checkpoint, or from elsewhere."""
    for key, value in component.code_asked_for.items():
        file = component.config_name
        yield Finding(
            "GM110",
            f"{file} asks for code to be imported ({key}: {value}); it was not",
            component=component.name or None,
            location=f"{file}:{key}",
            action="Use the library's own class, and take the key out; trust_remote_code runs what it names.",
        )


def lone_shard(component: Component) -> Iterator[Finding]:
    """A file that is one shard of several, given by itself."""
    read = component.file_sets[0] if component.file_sets else None
    if read is None or read.index is not None or len(read.files) != 1:
        return
    path = read.files[0].resolve()  # laid over a reference, the file has another name
    if shard := shard_of(path):
        number, count = shard
        yield Finding(
            "GM109",
            f"{path.name} is shard {number} of {count}, and was given alone",
            component=component.name or None,
            location=path.name,
            evidence={"shard": number, "of": count},
        )


def index_and_shards(component: Component) -> Iterator[Finding]:
    """A shard index that tells another story than the files it names."""
    told = component.index_disagreement if component.has_weights else None
    if told is None:
        return
    index = component.file_sets[0].name
    said = []
    if told.unlisted:
        said.append(
            f"tensors in the files that the index lacks: {len(told.unlisted)} ({told.unlisted[0]} first)"
        )
    if told.elsewhere:
        said.append(
            f"tensors in another file than the index says: {len(told.elsewhere)} ({told.elsewhere[0]} first)"
        )
    severity = None if said else Severity.NOTE  # libraries count tied tensors twice, or at another dtype
    if told.claimed_size is not None:
        said.append(f"the index counts {told.claimed_size} bytes, the files hold {told.size}")
    if said:
        yield Finding(
            "GM111",
            "; ".join(said),
            severity=severity,
            component=component.name or None,
            location=index,
            evidence={
                "unlisted": list(told.unlisted[:20]),
                "elsewhere": list(told.elsewhere[:20]),
                "claimed_size": told.claimed_size,
                "size": told.size,
            },
        )
