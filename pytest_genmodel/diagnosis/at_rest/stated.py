"""The dtype that a configuration states, against that of the file beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity

KEYS = ("dtype", "torch_dtype")
"""How transformers spells it: since version 5, and before."""
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_LOSES = {
    ("float64", "float32"),
    ("float64", "bfloat16"),
    ("float64", "float16"),
    ("float32", "bfloat16"),
    ("float32", "float16"),
    ("bfloat16", "float16"),
    ("float16", "bfloat16"),
}
"""(Stored, stated) where values are lost: digits, or in float16 what is larger than 65504."""


def stated_dtype(component: Component, base: Component | None) -> Iterator[Finding]:
    """The configuration of a transformers component states a dtype that holds less than its file does.

    transformers 5, and diffusers through it, loads in the dtype that is stated where none is asked for. A library
    that saves writes both alike. `base` is the reference's component: what it states as well is how the model was
    published, and no finding; without one it is a note, as models are published so.
    """
    found = stated(component)
    if component.library != "transformers" or found is None or not component.has_weights:
        return
    key, says = found
    holds = _most(component)
    if (holds, says) not in _LOSES:
        return
    if any(s.variant in (says, _SHORT.get(says)) for s in component.file_sets):
        return  # it is what the variant beside it says of itself
    theirs = stated(base) if base is not None else None
    if theirs is not None and theirs[1] == says:
        return
    file = component.config_name
    said = "" if base is None else f"; the reference's says {theirs[1] if theirs else 'nothing'}"
    yield Finding(
        "GM437",
        f"{file} says {says}, and the file holds {holds}{said}: loaded without a dtype it computes in {says}",
        component=component.name or None,
        location=f"{file}:{key}",
        severity=None if base is not None else Severity.NOTE,
        cause="the configuration was edited, or comes from another save than the weights" if base else None,
        evidence={"stated": says, "stored": holds, "reference": theirs[1] if theirs else None},
    )


_SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


def stated(component: Component) -> tuple[str, str] | None:
    """The key and the dtype that a configuration states (`float16`), None where it states none."""
    try:
        config = component.config
    except DamagedFileError:  # whoever loads it says so
        return None
    for key in KEYS:
        value = config.get(key)
        if isinstance(value, str):
            return key, value.removeprefix("torch.")
    return None


def _most(component: Component) -> str | None:
    """The floating-point dtype that most of the stored values have."""
    count: Counter[str] = Counter()
    for tensor in component.weights.tensors.values():
        count[tensor.dtype] += prod(tensor.shape)
    return _STORED.get(max(count, key=count.__getitem__)) if count else None
