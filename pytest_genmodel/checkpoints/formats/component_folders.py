"""A component saved by itself, or a trainer's folder with several of them and no model index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.component import Component, read_json
from pytest_genmodel.checkpoints.formats.strays import strays

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
    return _is_component(path) or any(_is_component(path / name) for name in COMPONENT_NAMES)


def read(path: Path, spec: str) -> Checkpoint:
    """Name each component by its class (a lone folder) or by its folder."""
    if _is_component(path):
        library, class_name = _class_of(path)
        default = path.name if path.name in COMPONENT_NAMES else "transformer"
        name = next((name for part, name in _NAME_OF_CLASS.items() if part in class_name), default)
        found = {name: Component(name, path, library, class_name)}
        return Checkpoint(spec=spec, root=path, kind=Kind.COMPONENTS, components=found)
    found = {component.name: component for component in (*models(path), *_without_weights(path))}
    return Checkpoint(
        spec=spec, root=path, kind=Kind.COMPONENTS, components=found, unread=strays(path, found)
    )


def models(path: Path) -> Iterator[Component]:
    """Give the models that lie in folders of their own under `path`."""
    for name in COMPONENT_NAMES:
        if _is_component(path / name):
            yield Component(name, path / name, *_class_of(path / name))


def _without_weights(path: Path) -> Iterator[Component]:
    for name, (file, library, key) in WITHOUT_WEIGHTS.items():
        if (path / name / file).is_file():
            class_name = read_json(path / name / file).get(key)
            yield Component(name, path / name, library, class_name if isinstance(class_name, str) else "")


def _is_component(path: Path) -> bool:
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
