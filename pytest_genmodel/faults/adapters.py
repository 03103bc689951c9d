"""Faults of a LoRA, injected into a folder as diffusers saves it (two layers at least, alpha in the header)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.editing import ADAPTER, edit, edit_metadata
from pytest_genmodel.faults.lora_file import (
    METADATA,
    adapter_component,
    adapter_config,
    adapter_file,
    adapter_layer,
    adapter_names,
)
from pytest_genmodel.faults.registry import Place, fault

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

_ALPHA = f"{ADAPTER}:lora_alpha"
_LORA = "lora"
_KIND = "adapter"


def _edit(copy: Copy, change: Callable[[Tensors], Tensors | None]) -> None:
    edit(adapter_file(copy), change)


def _bare(name: str) -> str:
    """A stored name without the component in front: as the model calls it."""
    return name.partition(".")[2]


def _place(copy: Copy, location: str | None = None) -> Place:
    return Place(adapter_component(copy), location)


@fault(
    "GM803",
    layer=_LORA,
    severity="warning",
    kind=_KIND,
    entries=(
        "diffusers-6087-lora-alpha-lost",
        "lora-alpha-not-serialised",
        "cogvideo-420-lora-scale-one-over-rank",
    ),
    seen_in="https://github.com/huggingface/diffusers/issues/6087",
)
def alpha_lost(copy: Copy) -> Place:
    """The factors were saved and the alpha was not."""
    edit_metadata(adapter_file(copy), **{METADATA: None})
    return _place(copy, _ALPHA)


@fault("GM803", layer=_LORA, severity="warning", kind=_KIND)
def alpha_under_another_name(copy: Copy) -> Place:
    """The alpha stands in the header under a key that diffusers does not look at, as finetrainers writes it."""
    edit_metadata(
        adapter_file(copy), **{METADATA: None, "lora_config": json.dumps({"r": 4, "lora_alpha": 64})}
    )
    return _place(copy, _ALPHA)


@fault(
    "GM804",
    layer=_LORA,
    severity="warning",
    kind=_KIND,
    entries=("diffusers-14409-mixed-rank-alpha",),
    seen_in="https://github.com/huggingface/diffusers/pull/14409",
)
def mixed_ranks_without_alpha(copy: Copy) -> Place:
    """The first layer has another rank than all others, and no alpha is stored."""
    first = adapter_layer(copy)

    def cut(tensors: Tensors) -> Tensors:
        down, up = f"{first}.lora_A.weight", f"{first}.lora_B.weight"
        return tensors | {down: tensors[down][:1], up: tensors[up][:, :1]}

    _edit(copy, cut)
    edit_metadata(adapter_file(copy), **{METADATA: None})
    return _place(copy, _ALPHA)


@fault("GM806", layer=_LORA, kind=_KIND)
def two_alphas(copy: Copy) -> Place:
    """An alpha stands beside each pair of factors, and the header says another."""
    import torch

    adapter_config(copy)
    _edit(
        copy,
        lambda tensors: (
            tensors
            | {
                f"{name.removesuffix('.lora_A.weight')}.alpha": torch.tensor(6400.0)
                for name in tensors
                if name.endswith(".lora_A.weight")
            }
        ),
    )
    return _place(copy)


@fault(
    "GM809",
    layer=_LORA,
    severity="warning",
    kind=_KIND,
    seen_in="https://github.com/zai-org/CogVideo/issues/420",
)
def alpha_far_too_large(copy: Copy) -> Place:
    """The header says an alpha of a hundred times the rank."""
    stored = adapter_config(copy)
    key = next((k for k in stored if k.endswith("lora_alpha")), None)
    if key is None:
        copy.does_not_apply("the adapter has no alpha in its header")
    edit_metadata(adapter_file(copy), **{METADATA: json.dumps(stored | {key: 400})})
    return _place(copy, _ALPHA)


@fault(
    "GM802",
    layer="optimizer",
    severity="warning",
    kind=_KIND,
    entries=("cogvideo-sat-lora-train-freezes-everything", "diffusers-12689-resume-without-lora"),
    seen_in="https://github.com/zai-org/CogVideo/blob/b080c6a010a396849f41d1b54b37cd26df30d2ef/sat/diffusion_video.py",
)
def fresh_adapter(copy: Copy) -> Place:
    """A new adapter was saved in the place of the trained one: every lora_B is zero."""
    _edit(copy, lambda tensors: {n: t * 0 if "lora_B" in n else t for n, t in tensors.items()})
    return _place(copy)


@fault(
    "GM805",
    layer="trainer-loop",
    severity="warning",
    kind=_KIND,
    entries=("text-encoder-lora-frozen",),
    seen_in="https://github.com/huggingface/diffusers/issues/5016",
)
def layers_without_gradient(copy: Copy) -> Place:
    """The layers of one kind were frozen: their lora_B are still zero."""
    kind = adapter_layer(copy).rpartition(".")[2]
    _edit(
        copy,
        lambda tensors: {n: t * 0 if n.endswith(f"{kind}.lora_B.weight") else t for n, t in tensors.items()},
    )
    return _place(copy)


def _second_block(copy: Copy) -> str:
    """A layer of block 1 whose counterpart in block 0 has factors too."""
    layers = {name.partition(".lora_")[0] for name in adapter_names(copy) if ".lora_A." in name}
    for layer in sorted(layers):
        if ".1." in layer and layer.replace(".1.", ".0.", 1) in layers and "to_q" in layer:
            return layer
    return copy.does_not_apply("the adapter has no two blocks with the same layer")


@fault(
    "GM807",
    layer="distributed-save",
    severity="warning",
    kind=_KIND,
    entries=("fsdp2-adapter-only-rank0-shard", "comfy-lowvram-partial-lora"),
    seen_in="https://github.com/huggingface/accelerate/pull/4206",
)
def saved_in_part(copy: Copy) -> Place:
    """Only one process saved its share: a kind of layer has factors in some blocks only."""
    layer = _second_block(copy)
    _edit(copy, lambda tensors: {n: t for n, t in tensors.items() if not n.startswith(f"{layer}.")})
    return _place(copy, _bare(layer))


@fault("GM801", "coverage", layer=_LORA, kind=_KIND)
def half_of_a_pair(copy: Copy) -> Place:
    """The lora_B of one layer is not in the file, and its lora_A is."""
    name = f"{adapter_layer(copy)}.lora_B.weight"
    _edit(copy, lambda tensors: {n: t for n, t in tensors.items() if n != name})
    return _place(copy, _bare(name))


@fault(
    "GM801",
    "coverage",
    layer=_LORA,
    kind=_KIND,
    entries=("adapter-key-mapping-not-applied",),
    seen_in="https://github.com/huggingface/transformers/pull/46766",
)
def names_of_another_implementation(copy: Copy) -> Place:
    """The layers were renamed between training and inference, and the adapter's names were not mapped."""
    _edit(
        copy,
        lambda tensors: {
            n.replace("to_q", "q_proj").replace("to_k", "k_proj"): t for n, t in tensors.items()
        },
    )
    return _place(copy)


@fault(
    "GM801",
    "coverage",
    layer="key-naming",
    kind=_KIND,
    entries=("simpletuner-779-peft-prefix-in-lora",),
    seen_in="https://github.com/bghira/SimpleTuner/issues/779",
)
def wrapper_in_the_names(copy: Copy) -> Place:
    """PEFT's wrapper stands in the names, in place of the component's: a loader finds no LoRA."""
    component = adapter_component(copy)
    _edit(
        copy,
        lambda tensors: {
            n.replace(f"{component}.", "base_model.model.model.", 1): t for n, t in tensors.items()
        },
    )
    return Place(component)


@fault("GM801", "coverage", layer=_LORA, kind=_KIND)
def block_beyond_the_depth(copy: Copy) -> Place:
    """The factors of a block are for one that the model does not have."""
    layer = _second_block(copy)
    block = layer.partition(".1.")[0]
    _edit(copy, lambda tensors: {n.replace(f"{block}.1.", f"{block}.99."): t for n, t in tensors.items()})
    return _place(copy)


@fault(
    "GM808",
    layer=_LORA,
    kind=_KIND,
    entries=("dora-magnitude-dropped",),
    seen_in="https://github.com/huggingface/diffusers/issues/7366",
)
def magnitudes_of_dora_dropped(copy: Copy) -> Place:
    """The header says DoRA, and the magnitudes are in no file."""
    stored = adapter_config(copy)
    prefix = next(iter(stored)).partition(".")[0]
    edit_metadata(adapter_file(copy), **{METADATA: json.dumps(stored | {f"{prefix}.use_dora": True})})
    return _place(copy)


@fault(
    "GM808",
    layer=_LORA,
    severity="warning",
    kind=_KIND,
    entries=("lora-pattern-matches-nothing",),
    seen_in="https://github.com/huggingface/peft/issues/3582",
)
def pattern_that_matches_nothing(copy: Copy) -> Place:
    """The alpha of some layers is given by a pattern that no layer matches."""
    stored = adapter_config(copy)
    prefix = next(iter(stored)).partition(".")[0]
    edit_metadata(
        adapter_file(copy),
        **{METADATA: json.dumps(stored | {f"{prefix}.alpha_pattern": {"^no_such_layer": 100}})},
    )
    return _place(copy)


@fault("GM304", layer=_LORA, kind=_KIND)
def factor_that_is_no_number(copy: Copy) -> Place:
    """Training in float16 overflowed, and a factor holds NaN."""

    def poison(tensors: Tensors) -> None:
        tensors[sorted(tensors)[0]].view(-1)[0] = float("nan")

    _edit(copy, poison)
    return _place(copy)


@fault("GM101", "coverage", layer=_LORA, kind=_KIND)
def adapter_cut_short(copy: Copy) -> Place:
    """The adapter's file ends early."""
    file = copy.own(adapter_file(copy))
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 100)
    return Place(None, ADAPTER)


@fault(
    "GM106",
    layer=_LORA,
    severity="warning",
    kind=_KIND,
    entries=("finetrainers-382-final-validation-wrong-folder",),
    seen_in="https://github.com/a-r-r-o-w/finetrainers/commit/fe24c94373ea6cabd89ab8e45e5930ae76f067ea",
)
def old_adapter_above_the_new_one(copy: Copy) -> Place:
    """An older adapter lies in the folder, and the result of the run in a folder below it."""
    inner = copy.folder / "lora_weights"
    inner.mkdir()
    copy.write(inner / ADAPTER, adapter_file(copy).read_bytes())
    _edit(copy, lambda tensors: {n: t * 0.5 for n, t in tensors.items()})
    return Place(None, f"{inner.name}/{ADAPTER}")
