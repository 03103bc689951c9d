"""A component saved by itself, or a trainer's folder with several of them and no model index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.formats.strays import strays
from pytest_genmodel.checkpoints.json_file import read_json

COMPONENT_NAMES = ("transformer", "transformer_2", "unet", "vae", "text_encoder", "image_encoder")
"""The models: each is a checkpoint by itself."""
WITHOUT_WEIGHTS = {
    "scheduler": ("scheduler_config.json", "diffusers", "_class_name"),
    "tokenizer": ("tokenizer_config.json", "transformers", "tokenizer_class"),
    "tokenizer_2": ("tokenizer_config.json", "transformers", "tokenizer_class"),
}
"""What a trainer saves beside its models: the file that it is known by, its library, and the key of its class."""
_NAME_OF_CLASS = {
    "Transformer": "transformer",
    "UNet": "unet",
    "Autoencoder": "vae",
    "T5EncoderModel": "text_encoder",
    "UMT5EncoderModel": "text_encoder",
    "CLIPVision": "image_encoder",
}


def recognises(path: Path) -> bool:
    """Whether `path` is a component's folder or holds folders of components."""
    return is_component(path) or any(is_component(path / name) for name in COMPONENT_NAMES)


def read(path: Path, spec: str) -> Checkpoint:
    """Name each component by its class (a lone folder) or by its folder."""
    if is_component(path):
        component = component_of(path)
        found = {component.name: component}
        return Checkpoint(spec=spec, root=path, kind=Kind.COMPONENTS, components=found)
    found = {component.name: component for component in (*models(path), *_without_weights(path))}
    return Checkpoint(
        spec=spec, root=path, kind=Kind.COMPONENTS, components=found, unread=strays(path, found)
    )


def gathered(root: Path, folders: Iterable[Path], spec: str) -> Checkpoint:
    """Give the components in `folders` as one checkpoint; what else lies in `root` is not looked at."""
    found: dict[str, Component] = {}
    for folder in folders:
        if is_component(folder):
            component = component_of(folder)
            found[component.name] = component
    beside = (component for component in _without_weights(root) if component.folder in folders)
    found |= {component.name: component for component in beside}
    return Checkpoint(spec=spec, root=root, kind=Kind.COMPONENTS, components=found)


def component_of(path: Path) -> Component:
    """The component that the folder `path` is, named by its folder, else by its class.

    Raises:
        DamagedFileError: its configuration cannot be read.
    """
    library, class_name = _class_of(path)
    name = next((name for name in COMPONENT_NAMES if path.name in (name, f"{name}_ema")), None)
    by_class = next((name for part, name in _NAME_OF_CLASS.items() if part in class_name), "transformer")
    return Component(name or by_class, path, library, class_name)


def models(path: Path) -> Iterator[Component]:
    """Give the models that lie in folders of their own under `path`."""
    for name in COMPONENT_NAMES:
        if is_component(path / name):
            yield Component(name, path / name, *_class_of(path / name))


def _without_weights(path: Path) -> Iterator[Component]:
    for name, (file, library, key) in WITHOUT_WEIGHTS.items():
        if (path / name / file).is_file():
            class_name = read_json(path / name / file).get(key)
            yield Component(name, path / name, library, class_name if isinstance(class_name, str) else "")


def is_component(path: Path) -> bool:
    """Whether the folder `path` holds the configuration of a model.

    Raises:
        DamagedFileError: its configuration cannot be read.
    """
    if not (path / "config.json").is_file():
        return False
    config = read_json(path / "config.json")
    return isinstance(config.get("_class_name"), str) or any(
        part in name for name in architectures(config) for part in _NAME_OF_CLASS
    )


def architectures(config: Mapping[str, Any]) -> list[str]:
    """The class names that transformers wrote into a configuration; [] where it wrote none."""
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _class_of(path: Path) -> tuple[str, str]:
    config = read_json(path / "config.json")
    if isinstance(config.get("_class_name"), str):
        return "diffusers", config["_class_name"]
    return "transformers", architectures(config)[0]
