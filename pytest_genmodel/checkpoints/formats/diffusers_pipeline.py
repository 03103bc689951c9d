"""A whole diffusers pipeline: a folder with `model_index.json` and a folder for each component."""

from __future__ import annotations

from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import INDEX, Checkpoint, Kind
from pytest_genmodel.checkpoints.class_home import class_home
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.formats.strays import strays
from pytest_genmodel.checkpoints.json_file import read_json


def recognises(path: Path) -> bool:
    """Whether `path` holds a model index."""
    return (path / INDEX).is_file()


def read(path: Path, spec: str) -> Checkpoint:
    """Read the index; components with a foreign class are listed, never imported."""
    index = read_json(path / INDEX)
    class_name = index.get("_class_name")
    if not isinstance(class_name, str):
        raise DamagedFileError(
            path / INDEX,
            Damage.FOREIGN_CLASS if class_name else Damage.CONFIG,
            f"_class_name is {class_name!r}, not the name of a diffusers pipeline",
            action="Do not run code that comes with a checkpoint; name a pipeline class of diffusers.",
        )
    components, arguments, foreign = {}, {}, {}
    for name, value in index.items():
        if name.startswith("_"):
            continue
        if not isinstance(value, list):
            arguments[name] = value
        elif len(value) == 2 and value[0] is None:
            continue
        elif len(value) == 2 and isinstance(value[1], str) and (home := class_home(value[0], path / name)):
            components[name] = _component(path, name, value[1], *home)
        else:
            foreign[name] = ".".join(map(str, value))
    return Checkpoint(
        spec=spec,
        root=path,
        kind=Kind.PIPELINE,
        pipeline_class=class_name,
        pipeline_arguments=arguments,
        components=components,
        foreign=foreign,
        unread=strays(path, (*components, *foreign)),
    )


def _component(root: Path, name: str, class_name: str, library: str, module: str | None) -> Component:
    folder = root / name
    if not name or Path(name).name != name or name == ".." or not folder.is_dir():
        raise DamagedFileError(
            root / INDEX,
            Damage.MISSING_FILE,
            f"the component {name!r} ({class_name}) has no folder",
            action=f"Save the whole pipeline again, or copy the folder {name}/ from the model it started from.",
        )
    return Component(name, folder, library, class_name, module=module)
