"""What a LoRA's configuration names and its file does not hold: parts that a save left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_genmodel.checkpoints.alpha import METADATA, pattern_of, stored_metadata
from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.keymaps.lora import bare_module, factor_of
from pytest_genmodel.checkpoints.names import summarise, unwrapped
from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity


def kept_promises(part: Part, adapter: Adapter) -> Iterator[Finding]:
    """DoRA's magnitudes, biases, whole layers, kinds of layers, and patterns that the configuration names."""
    config = _config(adapter)
    factors = [factor for name in part.weights.tensors if (factor := factor_of(name)) is not None]
    if not config or not factors:
        return
    modules = {bare_module(factor.module) for factor in factors}
    roles = {factor.role for factor in factors}
    if config.get("use_dora") is True and "lora_magnitude_vector" not in roles:
        yield _lacking(part, adapter, "use_dora", "says DoRA, and its magnitudes are in no file", acts=True)
    if config.get("lora_bias") is True and not any(factor.leaf == ".bias" for factor in factors):
        yield _lacking(
            part, adapter, "lora_bias", "says that lora_B has biases, and no file has one", acts=True
        )
    whole = _texts(config.get("modules_to_save"))
    if lost := [
        name for name in whole if not any(f".{name}." in f".{stored}." for stored in part.weights.tensors)
    ]:
        named = ", ".join(lost)
        yield _lacking(
            part,
            adapter,
            "modules_to_save",
            f"says that {named} was trained whole, and no file has it",
            acts=True,
        )
    if lost := [
        target for target in _texts(config.get("target_modules")) if _left_out(part, target, modules)
    ]:
        yield _lacking(
            part, adapter, "target_modules", f"names {summarise(lost)}, and no such layer has factors"
        )
    for key in ("alpha_pattern", "rank_pattern"):
        patterns = config.get(key)
        texts = [str(text) for text in patterns] if isinstance(patterns, Mapping) else []
        if lost := [text for text in texts if all(pattern_of(module, [text]) is None for module in modules)]:
            yield _lacking(
                part, adapter, key, f"gives {', '.join(map(repr, lost[:3]))}, which no layer matches"
            )


def _config(adapter: Adapter) -> Mapping[str, Any]:
    text = adapter.weights.metadata.get(METADATA)
    return {**(stored_metadata(adapter.file, text) if text else {}), **adapter.config}


def _texts(value: object) -> list[str]:
    """A list of names; PEFT takes one text for a regular expression, which says nothing here."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _left_out(part: Part, target: str, modules: set[str]) -> bool:
    """Whether the model has layers that the target means and none of them has factors."""
    if part.component is None or any(_means(target, module) for module in modules):
        return False
    weights = part.component.weights
    return any(
        _means(target, name.removesuffix(".weight"))
        for name in map(unwrapped, weights.tensors)
        if name.endswith(".weight")
    )


def _means(target: str, module: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _lacking(part: Part, adapter: Adapter, key: str, what: str, *, acts: bool = False) -> Finding:
    return Finding(
        "GM808",
        f"the adapter's configuration {what}",
        component=part.name,
        location=f"{adapter.file.name}:{key}",
        severity=Severity.ERROR if acts else None,
        cause="the save filtered the tensors by name, and these have another one" if acts else None,
    )
