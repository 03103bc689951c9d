"""The configuration that really acts: stored values with the class's defaults filled in, and the schedule."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.digest import plain_config
from pytest_genmodel.pipelines.library import class_named, quiet

_INERT = {
    "architectures",
    "is_local",
    "local_files_only",
    "tokenizer_class",
    "use_cache",
    "chunk_size_feed_forward",
}
_UNSET = (None, inspect.Parameter.empty)


def effective_config(component: Component) -> Mapping[str, Any]:
    """Give every value that the component's class acts on, whether stored or default.

    Keys that are no argument of the class act on nothing and are left out; so are private fields, versions and
    paths. Tokenizers are judged by their ids, not by their files: they have none.
    """
    cls = class_named(component.library, component.class_name)
    stored = plain_config(component.config)
    if component.library == "diffusers":
        defaults = _defaults(cls)
        return _normal({**defaults, **{key: value for key, value in stored.items() if key in defaults}})
    config_class = getattr(cls, "config_class", None)
    if config_class is None:
        return {}
    with quiet():
        values = config_class.from_dict(dict(component.config)).to_dict()
    return _normal({key: value for key, value in plain_config(values).items() if key not in _INERT})


def runtime_config(live: Any) -> Mapping[str, Any]:
    """Give the configuration of a live component, as `effective_config` spells it; {} where it has none."""
    config = getattr(live, "config", None)
    if config is None:
        return {}
    values = dict(config.to_dict() if hasattr(config, "to_dict") else config)
    return _normal({key: value for key, value in plain_config(values).items() if key not in _INERT})


def schedule(scheduler: Any, steps: int) -> Mapping[str, Any]:
    """Give the arrays that a run of `steps` steps takes from a fresh copy of the live scheduler.

    One-dimensional tensors: timesteps as the sampler walks them, and noise levels where the class has them.
    """
    fresh = type(scheduler).from_config(scheduler.config)
    with quiet():
        fresh.set_timesteps(steps)
    arrays = {name: getattr(fresh, name, None) for name in ("timesteps", "sigmas", "alphas_cumprod")}
    return {name: array for name, array in arrays.items() if hasattr(array, "shape")}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both values; an absent key counts as None."""
    keys = sorted(ours.keys() | theirs.keys())
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def _defaults(cls: Any) -> dict[str, Any]:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {
        parameter.name: None if parameter.default in _UNSET else parameter.default
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def _normal(values: Mapping[str, Any]) -> dict[str, Any]:
    """Spell tuples as JSON does, so that a default and its stored form are equal."""
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return str(value)
