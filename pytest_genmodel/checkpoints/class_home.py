"""Where a class that a model index names lies: in one of the two libraries, or among diffusers' own pipelines."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.json_file import read_json

LIBRARIES = ("diffusers", "transformers")
"""The libraries whose classes a checkpoint may name; anything else is never imported."""


def class_home(named: object, folder: Path) -> tuple[str, str | None] | None:
    """Give the library whose files a component has, and the module of its class where that is not the library's top.

    diffusers names a class that belongs to one pipeline by that pipeline's package (`["ltx2", "LTX2Vocoder"]`);
    such a class may be a model of either library. None for what the installed libraries do not hold.

    Args:
        named: the first of the two values in the index.
        folder: the component's folder.
    """
    if named in LIBRARIES:
        return str(named), None
    if not isinstance(named, str) or not named.isidentifier() or named not in _pipeline_packages():
        return None
    try:
        config = read_json(folder / "config.json")
    except DamagedFileError:  # whoever reads the configuration says so
        config = {}
    return "transformers" if "architectures" in config else "diffusers", f"diffusers.pipelines.{named}"


@cache
def _pipeline_packages() -> frozenset[str]:
    """The packages of the installed diffusers' pipelines; nothing is imported."""
    spec = importlib.util.find_spec("diffusers")
    places = (spec.submodule_search_locations if spec is not None else None) or ()
    return frozenset(
        path.parent.name for place in places for path in Path(place).glob("pipelines/*/__init__.py")
    )
