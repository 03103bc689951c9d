"""Families: what differs between image-to-video pipelines, one module each.

A new family is one module here and one entry in `FAMILIES`.
"""

from __future__ import annotations

import difflib

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.families.base import Family
from pytest_genmodel.pipelines.families.cogvideox import CogVideoX

FAMILIES: tuple[Family, ...] = (CogVideoX(),)


class UnknownFamilyError(BadInputError):
    """The pipeline class belongs to no family that this version knows."""


def family_of(checkpoint: Checkpoint) -> Family:
    """Give the family of a whole pipeline.

    Raises:
        UnknownFamilyError: names the class and the known ones.
    """
    name = checkpoint.pipeline_class or ""
    for family in FAMILIES:
        if name in family.pipeline_classes:
            return family
    known = [known for family in FAMILIES for known in family.pipeline_classes]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"; the nearest is {nearest[0]}" if nearest else ""
    raise UnknownFamilyError(
        f"{checkpoint.spec}: {name or 'this'} is no image-to-video family that is known here{hint} "
        f"(known: {', '.join(known)})"
    )
