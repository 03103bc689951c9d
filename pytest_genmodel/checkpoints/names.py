"""Tensor names: what wrappers do to them, and how to say many of them in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable

WRAPPERS: tuple[tuple[str, str], ...] = (
    ("base_model.model.", "PEFT's get_peft_model"),
    ("model.diffusion_model.", "a single-file or SAT export"),
    ("_orig_mod.", "torch.compile"),
    ("_fsdp_wrapped_module.", "FSDP"),
    ("_checkpoint_wrapped_module.", "activation checkpointing"),
    ("_forward_module.", "Lightning"),
    ("module.", "DistributedDataParallel"),
)
"""Prefixes that training wrappers put into a name, at its start or inside it, and who puts them there."""

ADAPTER_INFIX = ".base_layer."
"""What PEFT makes of a layer it has wrapped: `to_q.weight` becomes `to_q.base_layer.weight`."""

_FACTOR = re.compile(
    r"\.(lora_[AB]|lora_magnitude_vector|lora_embedding_[AB]|lora_down|lora_up|dora_scale)(\.|$)"
)
_FACTOR_OF_SAT = re.compile(r"\.matrix_[AB]\.[0-9]+$")
_NAME_OF_ADAPTER = re.compile(
    r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)\.(?!(?:weight|bias)$)[^.]+(?=\.(?:weight|bias)$|$)"
)
"""PEFT's factors in a live model carry the adapter's name: `lora_A.default.weight`."""
_WRAPPED_BY_SAT = re.compile(r"\.(query_key_value|query|key_value|dense)\.original\.(?=(?:weight|bias)$)")
"""SwissArmyTransformer's LoRA wraps the projections of attention, and these only: `original` is a word for others."""
_MODULES_TO_SAVE = re.compile(r"\.modules_to_save\.[^.]+\.")
"""What PEFT trains in full lies beside the layer as it was, `original_module`."""
_UNTRAINED_COPY = ".original_module."
_MODULE = re.compile(r"^(?:(?P<family>.*)\.)?(?P<name>[^.{}]*[^.{}0-9][^.{}]*(?:\.[0-9]+)?)\Z", re.DOTALL)
_DIGITS = re.compile(r"\.(0|[1-9][0-9]{0,8})(?=\.|\Z)")


def is_adapter_name(name: str) -> bool:
    """Whether the name belongs to a model that still wears its LoRA: a factor, or a layer that was wrapped."""
    return (
        ADAPTER_INFIX in name
        or _UNTRAINED_COPY in name
        or any(
            pattern.search(name) for pattern in (_FACTOR, _FACTOR_OF_SAT, _WRAPPED_BY_SAT, _MODULES_TO_SAVE)
        )
    )


def wrapper_of(name: str) -> tuple[str, str] | None:
    """The wrapper (prefix, who put it there) found in `name`, if any."""
    return next(
        ((prefix, who) for prefix, who in WRAPPERS if name.startswith(prefix) or f".{prefix}" in name), None
    )


def unwrapped(name: str) -> str:
    """The name as the bare model has it: every wrapper's prefix and infix taken out, however often it stands.

    A layer that PEFT trained in full gets the layer's name, and its untrained copy keeps its own; a factor loses
    the adapter's name (`lora_A.default.weight`).
    """
    before = None
    while before != name:
        before = name
        for prefix, _ in WRAPPERS:
            name = name.removeprefix(prefix).replace(f".{prefix}", ".")
        name = name.replace(ADAPTER_INFIX, ".")
        name = _MODULES_TO_SAVE.sub(".", name)
        name = _WRAPPED_BY_SAT.sub(r".\1.", name)
        name = _NAME_OF_ADAPTER.sub(r".\1", name)
    return name


def summarise(names: Iterable[str], most: int = 4) -> str:
    """Say many names in one line, in their order: `blocks.{0..3}.attn1.{to_q, to_k}.{weight, bias}`.

    Numbers that vary become ranges; modules of one parent with the same tensors are written together.
    """
    names = list(dict.fromkeys(names))
    if len(names) == 1 or any("{" in name or "}" in name for name in names):  # braces are ours to use
        return _list(names, most, "more")
    groups: dict[str, list[tuple[int, ...]]] = {}
    for name in names:
        numbers = tuple(int(number) for number in _DIGITS.findall(name))
        groups.setdefault(_DIGITS.sub(".{}", name), []).append(numbers)
    patterns = [_with_ranges(pattern, numbers) for pattern, numbers in groups.items()]
    leaves: dict[str, list[str]] = {}
    for pattern in patterns:
        parent, _, leaf = pattern.rpartition(".")
        leaves.setdefault(parent, []).append(leaf)
    modules: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for parent, found in leaves.items():
        family, name = _split_module(parent)
        modules.setdefault((family, tuple(sorted(found, reverse=True))), []).append(name)
    shown = [
        ".".join(part for part in (family, _choice(children), _choice(found)) if part)
        for (family, found), children in modules.items()
    ]
    return _list(shown, most, "more groups" if len(shown) > most + 1 else "more group")


def _list(shown: list[str], most: int, rest: str) -> str:
    if len(shown) > most:
        shown[most:] = [f"and {len(shown) - most} {rest}"]
    return ", ".join(shown)


def _split_module(path: str) -> tuple[str, str]:
    """Split off the last module's name, with its index where it has one (`to_out.0`)."""
    match = _MODULE.match(path)
    return (match["family"] or "", match["name"]) if match else (path, "")


def _choice(parts: Iterable[str]) -> str:
    unique = list(dict.fromkeys(parts))
    return unique[0] if len(unique) == 1 else "{" + ", ".join(unique) + "}"


def _with_ranges(pattern: str, numbers: list[tuple[int, ...]]) -> str:
    columns = (_range(sorted(set(column))) for column in zip(*numbers, strict=True))
    return re.sub(r"\{\}", lambda _: next(columns), pattern)


def _range(values: list[int]) -> str:
    if len(values) == 1:
        return str(values[0])
    if values == list(range(values[0], values[-1] + 1)):
        return f"{{{values[0]}..{values[-1]}}}"
    shown = ",".join(map(str, values[:6]))
    return f"{{{shown}{',...' if len(values) > 6 else ''}}}"
