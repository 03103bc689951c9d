"""What differs between a module and its counterpart, in words: weights, settings, adapters, hooks, methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_genmodel.diagnosis.difference import how_far
from pytest_genmodel.pipelines.module_state import ModuleState
from pytest_genmodel.tensors.fingerprint import Fingerprint

if TYPE_CHECKING:
    import torch

_METHOD = "()"
_LONGEST = 80


@dataclass(frozen=True)
class Difference:
    """One thing that differs: `name` is the tensor's or the setting's, `text` a clause about it.

    `evidence` holds plain JSON values.
    """

    name: str
    text: str
    evidence: Mapping[str, Any]
    is_tensor: bool = False
    is_adapter: bool = False
    hint: str | None = None


def state_differences(ours: ModuleState | None, theirs: ModuleState | None) -> tuple[Difference, ...]:
    """Hold two states against each other: tensors of other values, then settings, then what one side alone has."""
    if ours is None or theirs is None:
        if ours is theirs:
            return ()
        has = "reference" if ours is None else "candidate"
        return (Difference("module", f"only the {has} has it", {"only": has}),)
    tensors = list(_tensors(ours, theirs))
    found = [one for one in tensors if "only" not in one.evidence]
    found += _settings(ours.settings, theirs.settings)
    found += [one for one in tensors if "only" in one.evidence]
    if ours.is_adapter != theirs.is_adapter:
        who = "candidate" if ours.is_adapter else "reference"
        scale = next(
            (
                value
                for state in (ours, theirs)
                for name, value in state.settings.items()
                if name.startswith("scaling[")
            ),
            None,
        )
        worn = Difference(
            "adapter",
            f"the {who}'s wears an adapter" + (f" at scale {scale}" if scale else ""),
            {"adapter": who, "scale": scale},
            is_adapter=True,
        )
        return (worn,)  # PEFT's layer has attributes of its own, which say nothing more
    if ours.class_name != theirs.class_name:
        found.insert(0, _setting("class", ours.class_name, theirs.class_name))
    return tuple(found)


def setting_differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[Difference, ...]:
    """Settings that differ: of components, then of the pipeline itself (but for what repeats one), then methods."""
    found = sorted(_settings(ours, theirs), key=lambda one: (one.name.endswith(_METHOD), _is_pipelines(one)))
    told = [one.evidence for one in found if not _is_pipelines(one)]
    return tuple(one for one in found if not _is_pipelines(one) or one.evidence not in told)


def _is_pipelines(one: Difference) -> bool:
    return one.name.startswith("pipeline: ")


def _tensors(ours: ModuleState, theirs: ModuleState) -> Iterator[Difference]:
    for name in dict.fromkeys((*theirs.tensors, *ours.tensors)):
        a, b = ours.tensors.get(name), theirs.tensors.get(name)
        if a is None or b is None:
            if ours.is_adapter == theirs.is_adapter:
                has = "reference" if a is None else "candidate"
                yield Difference(name, f"{name} is the {has}'s alone", {"only": has}, is_tensor=True)
        elif found := _tensor(name, a, b):
            yield found


def _tensor(
    name: str, ours: torch.Tensor | Fingerprint, theirs: torch.Tensor | Fingerprint
) -> Difference | None:
    from pytest_genmodel.tensors import bitwise, compare

    if isinstance(ours, Fingerprint) or isinstance(theirs, Fingerprint):
        if isinstance(ours, Fingerprint) and isinstance(theirs, Fingerprint):
            if ours.equals(theirs):
                return None
            gap = ours.distance(theirs)
            text = f"{name} differs: relative difference about {gap:.2g}"
            return Difference(name, text, {"relative_difference": gap}, is_tensor=True)
        return Difference(name, f"{name} has another size", {}, is_tensor=True)
    comparison = compare(ours, theirs, bitwise)
    if comparison.passed:
        return None
    if comparison.problem == "dtype":
        text = f"{name} is {comparison.dtypes[0]}, the reference's {comparison.dtypes[1]}"
    else:
        looks = f"; {comparison.likeness.text}" if comparison.likeness else ""
        text = f"{name} differs: {how_far(comparison)}{looks}"
    return Difference(
        name,
        text,
        {
            "relative_difference": comparison.relative_difference,
            "max_abs": comparison.max_abs,
            "likeness": comparison.likeness.kind if comparison.likeness else None,
        },
        is_tensor=True,
        hint=comparison.likeness.hint if comparison.likeness else None,
    )


def _settings(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[Difference]:
    names = [name for name in dict.fromkeys((*theirs, *ours)) if ours.get(name) != theirs.get(name)]
    told = {name.removeprefix("config.") for name in names if name.startswith("config.")}
    for name in sorted(names, key=lambda name: name.endswith(_METHOD)):
        if name not in told:  # an attribute that repeats a configuration key
            yield _setting(name, ours.get(name), theirs.get(name))


def _setting(name: str, ours: str | None, theirs: str | None) -> Difference:
    mine, other = (_short("not set" if value is None else value) for value in (ours, theirs))
    if name == "hooks":
        text = f"hooked in: {mine}; the reference's: {other}"
    elif name.endswith(_METHOD):
        text = f"{name} runs {mine}, the reference's {other}"
    else:
        text = f"{name.removeprefix('config.')} is {mine}, the reference's {other}"
    return Difference(name, text, {"candidate": ours, "reference": theirs})


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
