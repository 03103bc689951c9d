"""Values of a configuration that are of another kind than its class takes: asked where working with them failed.

A library hands a configuration on unread, so that a text where a number must stand breaks far from its file.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import INDEX, Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.digest import plain_config
from pytest_genmodel.errors import GenmodelError
from pytest_genmodel.pipelines.library import class_named, quiet

NUMBER, TEXT, SWITCH, LIST, OBJECT, NULL = (
    "a number",
    "a text",
    "true or false",
    "a list",
    "an object",
    "null",
)
_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, SWITCH),
    ((int, float), NUMBER),
    (str, TEXT),
    (Mapping, OBJECT),
    ((Sequence, set, frozenset), LIST),
    (type(None), NULL),
)
_EVERYWHERE = {"model_type": (TEXT,), "_class_name": (TEXT,)}
_TOKENIZERS = {
    "model_max_length": (NUMBER,),
    "extra_ids": (NUMBER,),
    "padding_side": (TEXT,),
    "truncation_side": (TEXT,),
    "tokenizer_class": (TEXT,),
    "added_tokens_decoder": (OBJECT,),
}
"""What every tokenizer of transformers works with, whatever arguments its class names."""
_MOST = 60

_Taken = tuple[Collection[str], Any]
"""The kinds that a key takes, and its value by default."""


def unusable_value(checkpoint: Checkpoint) -> DamagedFileError | None:
    """Give the first value of another kind than its class takes, as the error that names file and key; None without.

    To be asked once something has failed: a class may take more than its signature says. A null that the signature
    allows, where the default is a value, comes last: code that works with the value seldom asks for it.
    """
    for nulls in (False, True):
        for part in checkpoint.components.values():
            if odd := unusable_in(part, nulls=nulls):
                return odd
        with suppress(GenmodelError):
            taken = _arguments(class_named("diffusers", str(checkpoint.pipeline_class)))
            for odd in _odd(checkpoint.root / INDEX, checkpoint.pipeline_arguments, taken, nulls):
                return odd
    return None


def unusable_in(component: Component, *, nulls: bool = False) -> DamagedFileError | None:
    """As `unusable_value`, of one component; None, too, where its configuration or its class cannot be read."""
    path = component.config_path
    try:
        config = component.config
        taken = _taken(component)
    except GenmodelError:
        return None
    return next(_odd(path, config, taken, nulls), None) if path is not None else None


def _odd(
    path: Path, config: Mapping[str, Any], taken: Mapping[str, _Taken], nulls: bool
) -> Iterator[DamagedFileError]:
    for key, value in config.items():
        kinds, default = taken.get(key, ((), None))
        if not kinds:
            continue
        kind = _kind(value)
        wanted = " or ".join(kinds)
        if kind == NUMBER and NUMBER in kinds and _is_number(default) and value < 0 <= default:
            wanted = f"{NUMBER} of 0 or more"
        elif nulls and value is None and default is not None:
            wanted = " or ".join(name for name in kinds if name != NULL)
        elif kind == LIST and _of_numbers(default) and not _of_numbers(value):
            wanted = f"{LIST} of numbers"
        elif kind in kinds or (kind == SWITCH and NUMBER in kinds) or kind is None:
            continue
        yield DamagedFileError(
            path,
            Damage.CONFIG,
            f"{key} is {_short(value)}, where {wanted} is expected",
            action=f"Correct {key} in {path.parent.name}/{path.name}, or copy the file from the checkpoint's source.",
        )


def _taken(component: Component) -> dict[str, _Taken]:
    cls = class_named(component.home, component.class_name)
    everywhere: dict[str, _Taken] = {key: (kinds, None) for key, kinds in _EVERYWHERE.items()}
    if component.library == "diffusers":
        return {**_arguments(cls), **everywhere}
    config_class = getattr(cls, "config_class", None)
    if config_class is not None:
        return {**_by_default(config_class), **everywhere}
    if hasattr(cls, "preprocess"):
        known = ((key, getattr(cls, key, None)) for key in component.config)
        return {key: ((kind,), value) for key, value in known if (kind := _kind(value)) not in (None, NULL)}
    return {key: (kinds, 1 if NUMBER in kinds else None) for key, kinds in _TOKENIZERS.items()}


def _arguments(cls: Any) -> dict[str, _Taken]:
    """By the annotations and defaults of the class's arguments; of what has neither nothing is known."""
    try:
        hints = typing.get_type_hints(cls.__init__)
    except Exception:  # a name that exists for type checkers only; whatever evaluating it raises
        hints = {}
    found: dict[str, _Taken] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        default = None if parameter.default is parameter.empty else parameter.default
        kinds = _of_annotation(hints[name]) if name in hints else []
        own = _kind(default) if parameter.default is not parameter.empty else None
        if kinds is not None and own is not None and own not in kinds:
            kinds = [*kinds, own]
        if kinds and kinds != [NULL]:
            found[name] = tuple(kinds), default
    return found


def _by_default(config_class: Any) -> dict[str, _Taken]:
    """By the values of a configuration of defaults; null there may stand for anything."""
    with quiet():
        try:
            values = config_class().to_dict()
        except Exception:  # a class that cannot be made without arguments; whatever it raises
            return {}
    kinds = ((key, value, _kind(value)) for key, value in plain_config(values).items())
    return {key: ((kind,), value) for key, value, kind in kinds if kind not in (None, NULL)}


def _of_annotation(annotation: Any) -> list[str] | None:
    """The kinds that an annotation names; None where it names something else, which may be anything."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [_of_annotation(part) for part in typing.get_args(annotation)]
        return (
            None
            if None in parts
            else list(dict.fromkeys(kind for part in parts if part is not None for kind in part))
        )
    if origin is typing.Literal:
        return list(dict.fromkeys(kind for value in typing.get_args(annotation) if (kind := _kind(value))))
    cls = origin or annotation
    if not isinstance(cls, type) or cls is object:
        return None
    if cls.__name__ in ("ndarray", "Tensor"):  # written as lists
        return [LIST]
    return next(([kind] for base, kind in _KINDS if issubclass(cls, base)), None)


def _kind(value: Any) -> str | None:
    return next((kind for base, kind in _KINDS if isinstance(value, base)), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_number, value))


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."
