"""The scale of a LoRA: the five places where trainers keep alpha, and whether they agree.

Beside each factor (kohya's `.alpha`), in PEFT's `adapter_config.json`, in diffusers' header metadata
(`lora_adapter_metadata`), in finetrainers' (`lora_config`), and in the trainer's own notes: kohya's
`ss_network_alpha`, SAT's `training_config.yaml`. The factors alone never tell: the scale is alpha / rank.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Adapter
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.checkpoints.keymaps.lora import bare_module, factor_of
from pytest_genmodel.checkpoints.spans import SpanReader
from pytest_genmodel.checkpoints.weights import WeightSet

ALPHA_TENSOR = "alpha tensor"
PEFT_CONFIG = "adapter_config.json"
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
METADATA = "lora_adapter_metadata"
"""The header key under which diffusers keeps PEFT's configuration, alpha included."""
FINETRAINERS = "lora_config"
KOHYA = "ss_network_alpha"
SAT_CONFIG = "training_config.yaml"

_SAME = 1 / 128
"""Two scales this close to each other, relatively, are one that was stored in 16 bits."""
_MOST_YAML = 1 << 20
_LAYOUTS = {
    "F64": "<d",
    "F32": "<f",
    "F16": "<e",
    "I64": "<q",
    "I32": "<i",
    "I16": "<h",
    "U8": "<B",
    "I8": "<b",
}
_Alpha = Callable[[str, int], float | None]
"""Gives the scale of a layer (its bare name, its rank); None where the source does not say."""


@dataclass(frozen=True)
class Conflict:
    """Sources that give one layer different scales: source -> scale."""

    module: str
    said: Mapping[str, float]


@dataclass(frozen=True)
class Scales:
    """What is known of an adapter's scale; layers are called as the denoiser calls them, where the file tells.

    `by_module` holds alpha / rank (alpha / sqrt(rank) where PEFT was told so), None where nothing says it;
    `sources` where it comes from, for the layers that have one; `conflicts` the layers whose sources disagree.
    `unread` are sources that say an alpha, and that no loader of this kind of file looks at: diffusers takes
    alpha = rank there, whatever they say.
    """

    by_module: Mapping[str, float | None]
    rank_by_module: Mapping[str, int]
    sources: Mapping[str, str]
    conflicts: tuple[Conflict, ...]
    unread: tuple[str, ...]

    def applied(self, module: str) -> float:
        """The scale at which the layer's factors act once they are loaded: 1 where the loader is told nothing."""
        scale = self.by_module.get(module)
        return 1.0 if scale is None or self.sources[module] in self.unread else scale

    @property
    def ranks(self) -> tuple[int, ...]:
        """The different ranks, ascending: more than one, and a file without alpha is loaded by guesswork."""
        return tuple(sorted(set(self.rank_by_module.values())))


@dataclass(frozen=True)
class _Source:
    name: str
    is_read: bool
    scale: _Alpha


def scales(adapter: Adapter) -> Scales:
    """Work out the scale of each layer that `adapter` acts on.

    Raises:
        DamagedFileError: an alpha tensor or a configuration cannot be read.
    """
    weights = adapter.weights
    ranks = _ranks(weights)
    sources = sorted(_sources(adapter, ranks), key=lambda source: not source.is_read)
    by_module: dict[str, float | None] = {}
    names: dict[str, str] = {}
    conflicts: list[Conflict] = []
    speaking: set[str] = set()
    for module, rank in ranks.items():
        said = {source.name: scale for source in sources if (scale := source.scale(module, rank)) is not None}
        speaking.update(said)
        first, *others = said.values() or (None,)
        by_module[module] = first
        if said:
            names[module] = next(iter(said))
        if any(not math.isclose(scale, first or 0.0, rel_tol=_SAME) for scale in others):
            conflicts.append(Conflict(module, said))
    unread = tuple(source.name for source in sources if not source.is_read and source.name in speaking)
    return Scales(by_module, ranks, names, tuple(conflicts), unread)


def _ranks(weights: WeightSet) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for name, tensor in weights.tensors.items():
        factor = factor_of(name)
        if factor is None or factor.leaf == ".bias" or not tensor.shape:
            continue
        if factor.role in ("lora_A", "lora_embedding_A"):
            ranks[bare_module(factor.module)] = tensor.shape[0]
        elif factor.role in ("lora_B", "lora_embedding_B") and len(tensor.shape) > 1:
            ranks.setdefault(bare_module(factor.module), tensor.shape[1])
    return {module: rank for module, rank in ranks.items() if rank > 0}


def _sources(adapter: Adapter, ranks: Mapping[str, int]) -> Iterator[_Source]:
    metadata = adapter.weights.metadata
    alphas = _alpha_tensors(adapter.weights)
    if alphas:
        yield _Source(ALPHA_TENSOR, True, lambda module, rank: _divided(alphas.get(module), rank))
    if METADATA in metadata:
        yield _Source(METADATA, True, _configured(stored_metadata(adapter.file, metadata[METADATA])))
    if (adapter.folder / PEFT_CONFIG).is_file():
        of_peft = read_json(adapter.folder / PEFT_CONFIG)
        yield _Source(PEFT_CONFIG, adapter.file.name in PEFT_FILES, _configured(of_peft))
    if (noted := _json_object(metadata.get(FINETRAINERS, ""))) is not None:
        yield _Source(FINETRAINERS, False, _configured(noted))
    if (alpha := _number(metadata.get(KOHYA))) is not None:
        linear = _without_convolutions(adapter.weights)
        yield _Source(KOHYA, False, lambda module, rank: alpha / rank if module in linear else None)
    if (of_sat := sat_configuration(adapter.folder)) is not None:
        yield _Source(SAT_CONFIG, True, _configured(of_sat))


def _divided(alpha: float | None, rank: int) -> float | None:
    return None if alpha is None else alpha / rank


def _alpha_tensors(weights: WeightSet) -> dict[str, float]:
    found: dict[str, float] = {}
    with SpanReader() as reader:
        for name, tensor in weights.tensors.items():
            factor = factor_of(name)
            if factor is None or factor.role != "alpha" or math.prod(tensor.shape) != 1:
                continue
            spans = weights.spans(name)
            layout = _LAYOUTS.get(tensor.dtype, "<f" if tensor.dtype == "BF16" else None)
            if spans is None or layout is None:
                value = float(weights.read(name).float().item())
            else:
                raw = bytearray(sum(span.size for span in spans))
                reader.read(spans, 0, memoryview(raw))
                [value] = struct.unpack(layout, b"\0\0" + raw if tensor.dtype == "BF16" else raw)
            found[bare_module(factor.module)] = float(value)
    return found


def _without_convolutions(weights: WeightSet) -> set[str]:
    """The layers to which kohya's `ss_network_alpha` applies: convolutions have an alpha of their own."""
    factors = ((factor_of(name), tensor) for name, tensor in weights.tensors.items())
    return {
        bare_module(factor.module)
        for factor, tensor in factors
        if factor is not None and factor.role == "lora_A" and len(tensor.shape) == 2
    }


# --- configurations -------------------------------------------------------------------------------------------------


def stored_metadata(file: Path, text: str) -> dict[str, Any]:
    """Give what diffusers keeps in a LoRA file's header, by PEFT's names.

    Raises:
        DamagedFileError: it is no JSON object.
    """
    stored = _json_object(text)
    if stored is None:
        raise DamagedFileError(
            file,
            Damage.CONFIG,
            f"its metadata {METADATA} is no JSON object",
            action="Save the adapter again; diffusers cannot read this one's alpha.",
        )
    own = [
        key for key in stored if not key.startswith(("transformer.", "unet."))
    ]  # of a text encoder, or of no name
    return {key.split(".", 1)[-1]: stored[key] for key in (*own, *(key for key in stored if key not in own))}


def sat_configuration(folder: Path) -> dict[str, float] | None:
    """Give alpha and rank as SAT's `training_config.yaml` in `folder` or above it says; None where none does.

    SAT takes alpha = 1 where the file names a LoRA without it.
    """
    file = next((f for f in (folder / SAT_CONFIG, folder.parent / SAT_CONFIG) if f.is_file()), None)
    if file is None or file.stat().st_size > _MOST_YAML:
        return None
    yaml = importlib.import_module("yaml")
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        parameters = next(_values_of("lora_config", loaded, set()), None)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(parameters, dict):
        return None
    inner = parameters.get("params")
    parameters = inner if isinstance(inner, dict) else {}
    found = {"lora_alpha": _number(parameters.get("lora_alpha", 1)), "r": _number(parameters.get("r"))}
    return {key: value for key, value in found.items() if value is not None}


def _values_of(key: str, tree: object, seen: set[int]) -> Iterator[object]:
    """Everything under `key`, at any depth; a YAML file may hold the same branch a million times."""
    if id(tree) in seen or not isinstance(tree, dict | list):
        return
    seen.add(id(tree))
    if isinstance(tree, dict) and key in tree:
        yield tree[key]
    for branch in tree.values() if isinstance(tree, dict) else tree:
        yield from _values_of(key, branch, seen)


def _configured(config: Mapping[str, Any]) -> _Alpha:
    alpha, patterns = _number(config.get("lora_alpha")), config.get("alpha_pattern")
    own = {str(k): _number(v) for k, v in patterns.items()} if isinstance(patterns, dict) else {}
    tame = all(map(_is_tame, own))
    stabilised = config.get("use_rslora") is True

    def scale(module: str, rank: int) -> float | None:
        of_module = own[key] if tame and (key := pattern_of(module, own)) is not None else alpha
        if of_module is None or not tame:
            return None
        return of_module / (math.sqrt(rank) if stabilised else rank)

    return scale


def pattern_of(module: str, patterns: Iterable[str]) -> str | None:
    """The first pattern that PEFT would take for the layer: a regular expression for the end of its name."""
    for pattern in patterns:
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return pattern
        except re.error:
            continue
    return None


def _is_tame(pattern: str) -> bool:
    """Whether matching takes no time to speak of: a stranger's expression can take years."""
    repeats = re.findall(r"[*+?{]", pattern)
    return len(pattern) <= 500 and len(repeats) <= 3 and not re.search(r"\)[*+?{]", pattern)


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
