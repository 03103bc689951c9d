"""One file with several components: whose prefix is whose, and each component under the model's own names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.keymaps import PLAIN, key_map_of
from pytest_genmodel.checkpoints.keymaps.rules import Rule, first_fit, left_out, map_weights
from pytest_genmodel.checkpoints.weights import WeightSet

DENOISER = "transformer"
PREFIXES: Mapping[str, tuple[str, ...]] = {
    DENOISER: ("model.diffusion_model.", "diffusion_model.", "transformer."),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (
        "conditioner.embedders.0.transformer.",
        "text_encoders.t5xxl.transformer.",
        "cond_stage_model.transformer.",
        "text_encoder.",
    ),
}
"""What stands before a component's names in a file that holds several: SAT's and the original trainers' prefixes,
ComfyUI's, and diffusers' own names of components."""

_OF_SAT = "transformer.layers."
"""SAT's own names begin with the word that diffusers' pipelines have for the component."""
_LEFT_OUT = left_out(
    *("text_encoders.t5xxl.spiece_model", "text_encoders.t5xxl.logit_scale"),  # a tokenizer, and a constant
)


@dataclass(frozen=True)
class Part:
    """The names of one component in a container: their prefixes, and the rules that give the model's names."""

    component: str
    prefixes: tuple[str, ...]
    rules: tuple[Rule, ...]


def census(names: Collection[str]) -> tuple[Part, ...]:
    """Say which components a container of these names holds; none where nothing in them is known."""
    parts = []
    is_bare = any(name.startswith(_OF_SAT) for name in names)
    for component, prefixes in PREFIXES.items():
        prefixes = tuple(prefix for prefix in prefixes if not (is_bare and _OF_SAT.startswith(prefix)))
        found = {prefix: _with_prefix(names, prefix) for prefix in prefixes}
        bare = [name for given in found.values() for name in given]
        if bare:
            key_map = key_map_of(bare)
            rules = key_map.rules if key_map is not None else PLAIN
            parts.append(Part(component, tuple(prefix for prefix in prefixes if found[prefix]), rules))
    if not parts and (key_map := key_map_of(names)) is not None:
        parts.append(Part(key_map.component, ("",), key_map.rules))
    return tuple(parts)


def components_of(
    parts: Collection[Part], folder: Path, opened: Callable[[], WeightSet]
) -> dict[str, Component]:
    """Give the components of a container; `opened` is called once, when the first of them is read.

    Names that belong to none of the parts are `unexplained` in the first of them.
    """
    opened = functools.cache(opened)
    first = next(iter(parts), None)

    def source(part: Part) -> WeightSet:
        stored = opened()
        foreign = _foreign(stored.tensors, parts) if part == first else ()
        weights = map_weights(stored, part.rules, part.prefixes, foreign=foreign)
        if not weights.tensors:
            raise DamagedFileError(
                stored.files[0],
                Damage.NOT_WEIGHTS,
                f"it holds no tensor of the {part.component}, and has names that begin with "
                f"{' or '.join(map(repr, part.prefixes))}",
                action="Save the checkpoint again, whole.",
            )
        return weights

    return {
        part.component: Component(part.component, folder, "", "", source=functools.partial(source, part))
        for part in parts
    }


def _with_prefix(names: Collection[str], prefix: str) -> list[str]:
    return [name[len(prefix) :] for name in names if name.startswith(prefix)]


def _foreign(names: Collection[str], parts: Collection[Part]) -> list[str]:
    known = tuple(prefix for part in parts for prefix in part.prefixes)
    return [name for name in names if not name.startswith(known) and first_fit(name, _LEFT_OUT) is None]
