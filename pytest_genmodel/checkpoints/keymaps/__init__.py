"""Key maps: what trainers call the tensors of a model, one module for each kind of names.

A new kind is one module here and one entry in `KEY_MAPS`.
"""

from __future__ import annotations

from collections.abc import Collection

from pytest_genmodel.checkpoints.keymaps import original_vae, sat
from pytest_genmodel.checkpoints.keymaps.rules import KeyMap, Rule, renamed

KEY_MAPS: tuple[KeyMap, ...] = (sat.TRANSFORMER, original_vae.VAE)

PLAIN: tuple[Rule, ...] = (renamed("{rest}", "{rest}"),)
"""The model's own names."""


def key_map_of(names: Collection[str]) -> KeyMap | None:
    """The key map whose names these are; None where they are nobody's, and so the model's own."""
    return next((key_map for key_map in KEY_MAPS if key_map.knows(names)), None)
