"""Families: what differs between pipelines, one module each.

A family is one module beside this one with a module-level `FAMILIES` tuple; nothing else is touched. The modules are
imported to learn the classes' names, so none of them may import torch or diffusers at module level.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families.base import Family
from pytest_genmodel.pipelines.families.generic import DENOISERS, generic_family


def _declared() -> tuple[Family, ...]:
    modules = sorted(info.name for info in pkgutil.iter_modules(__path__))
    found = [getattr(importlib.import_module(f"{__name__}.{module}"), "FAMILIES", ()) for module in modules]
    return tuple(family for families in found for family in families)


FAMILIES: tuple[Family, ...] = _declared()


class UnknownFamilyError(BadInputError):
    """The class is no pipeline of the installed diffusers, or it cannot be told what denoises in it."""


def family_of(checkpoint: Checkpoint) -> Family:
    """Give the family of a whole pipeline; for any other pipeline of diffusers, the generic one.

    Raises:
        UnknownFamilyError: diffusers has no such class, or no transformer and no unet is there; names the nearest.
    """
    name = checkpoint.pipeline_class or ""
    for family in FAMILIES:
        if name in family.pipeline_classes:
            return family
    if generic := generic_family(checkpoint):
        return generic
    known = [known for family in FAMILIES for known in family.pipeline_classes]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"; the nearest is {nearest[0]}" if nearest else ""
    raise UnknownFamilyError(
        f"{checkpoint.spec}: {name or 'this'} is no pipeline of the installed diffusers that has a "
        f"{' or a '.join(DENOISERS)}{hint} (families that are known here: {', '.join(known)})"
    )
