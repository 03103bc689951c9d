"""What a LoRA shows by itself: halves, ranks, alpha, layers that never learned or are not there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from math import isclose
from typing import Any

from pytest_genmodel.checkpoints.alpha import scales
from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.keymaps.lora import bare_module, factor_of
from pytest_genmodel.checkpoints.names import unwrapped
from pytest_genmodel.diagnosis.at_rest import values
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.at_rest.repeated import copies_among
from pytest_genmodel.diagnosis.finding import Finding, finding_of
from pytest_genmodel.diagnosis.rules import Severity

_HALVES = {"lora_A": "lora_B", "lora_B": "lora_A"}
_NUMBER = re.compile(r"\.(\d+)(?=\.)")
_TELLING = 32
"""Values that two factors must have for being alike to mean something."""


def up_factors(names: Iterable[str]) -> list[str]:
    """The names of factors that start at zero, so that an adapter acts only once they have moved."""
    return [
        name
        for name in names
        if (factor := factor_of(name)) is not None
        and factor.role in ("lora_B", "lora_embedding_B")
        and factor.leaf != ".bias"
    ]


def adapted_component(checkpoint: Checkpoint) -> str:
    """The component that the adapter is for, by its names; the denoiser where they do not say."""
    names = checkpoint.adapter.weights.tensors if checkpoint.adapter else {}
    first = {name.split(".", 1)[0] for name in names}
    for name in ("transformer", "unet", "transformer_2"):
        if name in first or name in checkpoint.components:
            return name
    return "transformer"


def halves(part: Part, adapter: Adapter) -> Iterator[Finding]:
    """By names alone: a lora_A without its lora_B, or the reverse, acts with random values."""
    factors = {
        (bare_module(factor.module), factor.role)
        for name in part.weights.tensors
        if (factor := factor_of(name)) is not None and factor.leaf != ".bias"
    }
    lacking = sorted(
        f"{module}.{_HALVES[role]}.weight"
        for module, role in factors
        if role in _HALVES and (module, _HALVES[role]) not in factors
    )
    if lacking:
        yield finding_of(
            "GM801",
            lacking,
            f"are in no file, and {'its other half is' if len(lacking) == 1 else 'their other halves are'}",
            noun="factors",
            component=part.name,
            cause="the file holds a part of the adapter only",
            action="Save the complete adapter: lora_A and lora_B of every layer.",
        )


def not_finite(part: Part, adapter: Adapter) -> Iterator[Finding]:
    """Factors that hold NaN or Inf."""
    return values.not_finite(part)


def untrained(part: Part, adapter: Adapter) -> Iterator[Finding]:
    """lora_B that are still zero, as all of them are before the first step; or every lora_A, which never is."""
    ups = up_factors(part.weights.tensors)
    zero = [name for name in ups if (f := part.statistics.get(name)) and f.zeros == f.numel]
    part.told.update(zero)
    factors = ((name, factor_of(name)) for name in part.weights.tensors)
    downs = [name for name, factor in factors if factor is not None and factor.role == "lora_A"]
    if downs and all((f := part.statistics.get(name)) and f.zeros == f.numel for name in downs):
        yield Finding(
            "GM802",
            f"all {len(downs)} lora_A are zero",
            component=part.name,
            location=_short(downs[0], part.name),
            cause="lora_A was made with zeros, or lost its values: only lora_B may start at zero",
        )
    elif zero and len(zero) == len(ups):
        yield Finding(
            "GM802",
            f"all {len(ups)} lora_B are zero",
            component=part.name,
            location=_short(ups[0], part.name),
        )
    elif zero:
        yield finding_of(
            "GM805",
            [_short(name, part.name) for name in zero],
            "are still zero",
            of=len(ups),
            noun="lora_B",
            component=part.name,
        )


def repeated(part: Part, adapter: Adapter) -> Iterator[Finding]:
    """Up factors that hold, bit for bit, those of another layer; zeros, which all start with, are no mark."""
    ups = up_factors(part.weights.tensors)
    first = copies_among(part, ups, _TELLING)
    if first:
        copies = list(first)
        part.told.update(copies)
        yield finding_of(
            "GM811",
            [_short(name, part.name) for name in copies],
            "are those of another layer",
            noun="up factors",
            of=len(ups),
            after=f"; {_short(copies[0], part.name)} is {_short(first[copies[0]], part.name)}",
            component=part.name,
            evidence={"copies_of": dict(list(first.items())[:20])},
        )


def alpha(part: Part, adapter: Adapter) -> Iterator[Finding]:
    """Where nothing says the alpha, nothing that a loader reads does, or two places contradict each other."""
    known = scales(adapter)
    where: dict[str, Any] = {"component": part.name, "location": f"{adapter.file.name}:lora_alpha"}
    ranks = {str(rank): list(known.rank_by_module.values()).count(rank) for rank in known.ranks}
    if known.conflicts:
        first = known.conflicts[0]
        said = ", ".join(f"{source} says {scale:.6g}" for source, scale in first.said.items())
        yield finding_of(
            "GM806",
            [conflict.module for conflict in known.conflicts],
            "have two scales",
            of=len(known.by_module),
            noun="layers",
            after=f"; of {first.module}, {said} (scale = alpha / rank)",
            component=part.name,
            evidence={"said": dict(first.said)},
        )
        return
    if still := [module for module in known.by_module if known.applied(module) == 0]:
        yield finding_of(
            "GM802",
            still,
            "have the scale 0 (their alpha is 0)",
            of=len(known.by_module),
            noun="layers",
            component=part.name,
            cause="an alpha that counts as false, or was never set",
        )
        return
    silent = [module for module, scale in known.by_module.items() if scale is None]
    ignored = [
        module
        for module, scale in known.by_module.items()
        if scale is not None and not isclose(scale, known.applied(module), rel_tol=1 / 128)
    ]
    if silent and len(known.ranks) > 1:
        named = ", ".join(map(str, known.ranks[:6]))
        yield Finding(
            "GM804",
            f"{adapter.file.name} does not say its alpha, and its layers have the ranks {named}",
            evidence={"ranks": ranks},
            **where,
        )
    elif silent:
        yield Finding(
            "GM803",
            f"{adapter.file.name} does not say its alpha; diffusers takes alpha = rank "
            f"({', '.join(ranks) or 'unknown'}) and so the scale 1",
            evidence={"ranks": ranks},
            **where,
        )
    if ignored:
        scale, source = known.by_module[ignored[0]], known.sources[ignored[0]]
        yield Finding(
            "GM803",
            f"{adapter.file.name} says its alpha in {source!r} only, where diffusers does not look: it was trained "
            f"at the scale {scale:.6g}, and acts at {known.applied(ignored[0]):.6g}",
            cause=f"the trainer wrote the alpha under a name of its own ({source})",
            evidence={"ranks": ranks, "layers": len(ignored), "scale": scale},
            **where,
        )


def partial(part: Part, adapter: Adapter) -> Iterator[Finding]:
    """Kinds of layers of which only some blocks have factors.

    With the model at hand its layers are counted; without it, the kinds are held against each other, and that is a
    note: models exist whose blocks differ.
    """
    if _is_chosen(adapter):
        return
    has: dict[str, set[tuple[int, ...]]] = {}
    for name in part.weights.tensors:
        factor = factor_of(name)
        if factor is not None and factor.role in _HALVES:
            kind, numbers = _kind(bare_module(factor.module))
            has.setdefault(kind, set()).add(numbers)
    wanted = _layers(part.component, has) if part.component is not None else _alike(has)
    for kind, places in has.items():
        lacking = wanted.get(kind, set()) - places
        if lacking and any(places):
            names = [_named(kind, numbers) for numbers in sorted(lacking)]
            total = len(lacking | places)
            yield finding_of(
                "GM807",
                names,
                "have no factors",
                of=total,
                noun="layers of one kind",
                component=part.name,
                severity=None if part.component is not None else Severity.NOTE,
            )


def _is_chosen(adapter: Adapter) -> bool:
    """Whether the configuration says that only some layers were meant."""
    if adapter.config.get("layers_to_transform") is not None:
        return True
    targets = adapter.config.get("target_modules")
    targets = [targets] if isinstance(targets, str) else targets if isinstance(targets, list) else []
    return any(re.search(r"\.\d+\.", f".{target}") for target in targets)


def _layers(component: Component | None, kinds: Mapping[str, object]) -> dict[str, set[tuple[int, ...]]]:
    found: dict[str, set[tuple[int, ...]]] = {}
    for name in component.weights.tensors if component is not None else ():
        bare = unwrapped(name)
        if bare.endswith(".weight"):
            kind, numbers = _kind(bare.removesuffix(".weight"))
            if kind in kinds:
                found.setdefault(kind, set()).add(numbers)
    return found


def _alike(has: Mapping[str, set[tuple[int, ...]]]) -> dict[str, set[tuple[int, ...]]]:
    """For each kind the places of all kinds of the same blocks; one block more or less is the model's own way."""
    union: dict[str, set[tuple[int, ...]]] = {}
    for kind, places in has.items():
        union.setdefault(kind.partition("{}")[0], set()).update(places)
    wanted = {kind: union[kind.partition("{}")[0]] for kind in has}
    return {kind: places for kind, places in wanted.items() if len(places - has[kind]) > 1}


def _kind(path: str) -> tuple[str, tuple[int, ...]]:
    """The block's number taken out: `blocks.3.attn.to_out.0` is `blocks.{}.attn.to_out.0` at 3."""
    numbers = _NUMBER.findall(f"{path}.")[:1]
    first = _NUMBER.search(path)
    if first is None or not numbers:
        return path, ()
    return f"{path[: first.start(1)]}{{}}{path[first.end(1) :]}", (int(numbers[0]),)


def _named(kind: str, numbers: tuple[int, ...]) -> str:
    return kind.replace("{}", str(numbers[0])) if numbers else kind


def _bare(name: str, component: str) -> str:
    return name.removeprefix("base_model.model.").removeprefix(f"{component}.")


def _short(name: str, component: str) -> str:
    bare = _bare(name, component)
    return bare if bare.endswith(".weight") or name.endswith(".weight") else f"{bare}.weight"
