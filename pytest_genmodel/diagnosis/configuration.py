"""What the stored configurations of two components come to, as findings: only values that the class acts on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.digest import plain_config
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.pipelines.effective import differences, effective_config
from pytest_genmodel.pipelines.families import FAMILIES

_INERT = frozenset[tuple[str, str]]().union(*(family.inert_config for family in FAMILIES))
_SOFT = frozenset[str]().union(*(family.soft_config for family in FAMILIES))


def configuration_findings(
    ours: Component,
    theirs: Component,
    inert: Collection[tuple[str, str]] = _INERT,
    soft: Collection[str] = _SOFT,
) -> Iterator[Finding]:
    """Say which effective values differ; where what is stored is equal, no library is imported.

    Args:
        ours, theirs: the candidate's component and the reference's.
        inert: pairs (class, key) of what a class takes and never uses.
        soft: keys that only say for which size a model was made.

    Raises:
        BadInputError: the installed library has no such class.
        DamagedFileError: a configuration cannot be read.
    """
    on_record = theirs.effective is not None
    same_class = ours.class_name == theirs.class_name
    if not on_record and same_class and plain_config(ours.config) == plain_config(theirs.config):
        return
    by_ids = "tokenizer" in ours.name.lower()  # judged by what it does, whatever class does it
    swapped = not by_ids and _kind(ours.class_name) != _kind(theirs.class_name) and not theirs.has_weights
    if swapped:
        yield Finding(
            "GM401",
            f"the class is {ours.class_name}, the reference's {theirs.class_name}",
            component=ours.name,
            location=f"model_index.json:{ours.name}",
            evidence={"candidate": ours.class_name, "reference": theirs.class_name},
        )
    file = ours.config_name
    acting, recorded = effective_config(ours), effective_config(theirs)
    for key, (value, wanted) in differences(acting, recorded).items():
        if (ours.class_name, key) in inert:
            continue
        if swapped and not (_names(acting, key) and _names(recorded, key)):
            continue  # what one class has and the other has not is said with the class
        is_default = key.partition(".")[0] not in ours.config
        if on_record and same_class and is_default and not (_names(acting, key) and _names(recorded, key)):
            continue  # a key that only one version of the library knows
        stored = ", by default: the file does not name it" if is_default else ""
        yield Finding(
            "GM404" if key in soft else "GM401",
            f"{key} is {value!r}{stored}; the reference's is {wanted!r}",
            component=ours.name,
            location=f"{file}:{key}",
            evidence={"candidate": value, "reference": wanted, "is_default": is_default},
        )


def _names(values: Mapping[str, Any], path: str) -> bool:
    """Whether a configuration has a key, given by its path."""
    key, _, rest = path.partition(".")
    if path in values or not rest:
        return path in values
    return isinstance(values.get(key), Mapping) and _names(values[key], rest)


def _kind(class_name: str) -> str:
    """The class's name without what says how it computes: transformers writes it by what is installed.

    T5TokenizerFast and T5Tokenizer are one class in transformers 5; CLIPImageProcessorPil is what CLIPImageProcessor
    is without torchvision, and was CLIPFeatureExtractor.
    """
    return class_name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
