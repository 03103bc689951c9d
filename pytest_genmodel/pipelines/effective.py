"""The configuration that really acts: stored values with the class's defaults filled in, and the schedule."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.digest import plain_config
from pytest_genmodel.errors import GenmodelError, first_line
from pytest_genmodel.pipelines.library import class_named, quiet

_INERT = {
    "architectures",
    "is_local",
    "local_files_only",
    "tokenizer_class",
    "use_cache",
    "chunk_size_feed_forward",
    "id2label",  # names of classes: no model of a pipeline classifies
    "label2id",
    "num_labels",
    "problem_type",
    "task_specific_params",
}
ARRAYS = ("timesteps", "sigmas", "alphas_cumprod")
"""A scheduler's arrays, the one that says most first."""
_UNSET = (None, inspect.Parameter.empty)


def effective_config(component: Component) -> Mapping[str, Any]:
    """Give every value that the component's class acts on, whether stored or default.

    Keys that are no argument of the class act on nothing and are left out; so are private fields, versions and
    paths. Tokenizers are judged by their ids, not by their files: they have none.

    Raises:
        DamagedFileError: the class refuses what is stored.
    """
    if component.effective is not None:
        return component.effective
    cls = class_named(component.home, component.class_name)
    stored = plain_config(component.config)
    if component.library == "diffusers":
        defaults = _defaults(cls)
        return _normal({**defaults, **{key: value for key, value in stored.items() if key in defaults}})
    config_class = getattr(cls, "config_class", None)
    if config_class is None:
        return _image_processing(component, cls, stored)
    made = _made(component, config_class, component.config)
    with quiet():
        values = _taken(config_class, made)
    return _normal({key: value for key, value in values.items() if key not in _INERT})


_IMAGE_KEYS = ("size", "crop_size", "pad_size", "resample", "rescale_factor", "image_mean", "image_std")


def _made(component: Component, cls: Any, stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a class of transformers makes of stored values.

    Raises:
        DamagedFileError: it refuses them.
    """
    with quiet():
        try:
            values: Mapping[str, Any] = cls.from_dict(dict(stored)).to_dict()
        except Exception as error:  # whatever a class raises for a value of another kind
            raise DamagedFileError(
                component.config_path or component.folder,
                Damage.CONFIG,
                f"{cls.__name__} refuses it ({first_line(error)})",
                action="Copy the configuration file from the reference.",
            ) from error
    return values


def _image_processing(component: Component, cls: Any, stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an image processor does with a picture; {} for a class that is none.

    Older spellings (a number for a size) and the classes for one library or another come to the same values.
    """
    if not hasattr(cls, "preprocess"):
        return {}
    values = _made(component, cls, stored)
    return _normal(
        {key: value for key, value in values.items() if key.startswith("do_") or key in _IMAGE_KEYS}
    )


def effective_arguments(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Give what the pipeline's class is called with beside its components: stored values, else its defaults.

    A key of the model index that is no argument of the class acts on nothing.
    """
    defaults = _defaults(class_named("diffusers", str(checkpoint.pipeline_class)))
    stored = checkpoint.pipeline_arguments
    return _normal(
        {name: stored.get(name, defaults[name]) for name in defaults if name not in checkpoint.components}
    )


def stored_arguments(checkpoint: Checkpoint, pipeline_class: Any) -> dict[str, Any]:
    """Give what the model index stores for the pipeline's class, as stored; diffusers passes over other keys too."""
    taken = _defaults(pipeline_class)
    return {name: value for name, value in checkpoint.pipeline_arguments.items() if name in taken}


def _taken(config_class: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the class of a transformers configuration does not know: `from_dict` keeps any key.

    Known are the arguments of the class and what a configuration of defaults holds; the same within the
    configurations that it is made of.
    """
    known = set(_defaults(config_class))
    try:
        known |= set(config_class().to_dict())
    except Exception:  # a class that cannot be made without arguments; whatever it raises
        known |= {"model_type", *getattr(config_class, "attribute_map", {})}
    parts = getattr(config_class, "sub_configs", {})
    return {
        key: _taken(part, value)
        if isinstance(value, Mapping) and (part := _known_class(parts.get(key)))
        else value
        for key, value in plain_config(values).items()
        if key in known and key not in _INERT
    }


def _known_class(part: Any) -> Any:
    """The class of a part, where it is settled: AutoConfig stands for any."""
    return part if hasattr(part, "to_dict") else None


def runtime_config(live: Any) -> Mapping[str, Any]:
    """Give the configuration of a live component, as `effective_config` spells it; {} where it has none."""
    config = getattr(live, "config", None)
    if config is None:
        return {}
    values = dict(config.to_dict() if hasattr(config, "to_dict") else config)
    return _normal({key: value for key, value in plain_config(values).items() if key not in _INERT})


class StepsRefusedError(GenmodelError):
    """A scheduler makes no schedule of so many steps."""

    def __init__(self, scheduler: Any, steps: int, reason: str) -> None:
        super().__init__(
            f"the {type(scheduler).__name__} of this configuration makes no schedule of {steps} "
            f"step{'' if steps == 1 else 's'}: {reason} (ask for another number of them: --genmodel-steps)"
        )


def set_steps(scheduler: Any, steps: int, **call: Any) -> None:
    """Have a scheduler make its schedule of `steps` steps; `call` is what its `set_timesteps` needs beside them.

    Raises:
        StepsRefusedError: it makes none of so many, whatever the library raises for it, or one without numbers (a
            terminal shift over a single step divides by 0).
    """
    with quiet():
        try:
            scheduler.set_timesteps(steps, **call)
        except Exception as error:
            raise StepsRefusedError(scheduler, steps, first_line(error)) from error
    timesteps = getattr(scheduler, "timesteps", None)
    if timesteps is not None and not bool(timesteps.isfinite().all()):
        raise StepsRefusedError(scheduler, steps, "its timesteps are NaN or Inf")


def schedule(scheduler: Any, steps: int) -> Mapping[str, Any]:
    """Give the arrays that a run of `steps` steps takes from a fresh copy of the live scheduler.

    One-dimensional tensors: timesteps as the sampler walks them, and noise levels where the class has them.

    Raises:
        StepsRefusedError: the scheduler makes no schedule of so many steps.
    """
    return schedule_of(type(scheduler).from_config(scheduler.config), steps)


def schedule_of(scheduler: Any, steps: int) -> Mapping[str, Any]:
    """As `schedule`, of this very object, whose steps are set."""
    shift = {"mu": _middle_shift(scheduler.config)} if scheduler.config.get("use_dynamic_shifting") else {}
    set_steps(scheduler, steps, **shift)
    arrays = {name: getattr(scheduler, name, None) for name in ARRAYS}
    return {name: array for name, array in arrays.items() if hasattr(array, "shape")}


def _middle_shift(config: Mapping[str, Any]) -> float:
    """A shift that depends on the size of the video, for a size in the middle of what the scheduler is made for."""
    return float(config.get("base_shift", 0.5) + config.get("max_shift", 1.15)) / 2


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both values; an absent key counts as None.

    Of a configuration within a configuration the keys that differ are given by their path: `text_config.hidden_act`.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found |= {f"{key}.{inner}": pair for inner, pair in differences(mine, other).items()}
        elif mine != other:
            found[key] = mine, other
    return found


def known_fields(cls: Any) -> frozenset[str] | None:
    """The fields that a diffusers class takes, a scheduler's with those of its kind; None for one that takes any.

    Schedulers hand their configuration on to one another, with fields that only another of the kind reads.
    """
    parameters = inspect.signature(cls.__init__).parameters.values()
    if any(
        parameter.kind is parameter.VAR_KEYWORD and parameter.name != "kwargs" for parameter in parameters
    ):
        return None
    known = set(_defaults(cls))
    for kind in getattr(cls, "_compatibles", ()):
        other = getattr(importlib.import_module("diffusers"), kind, None)
        known |= set(_defaults(other)) if isinstance(other, type) else set()
    return frozenset(known)


def scheduler_defaults(key: str) -> list[Any]:
    """The defaults that the schedulers of diffusers have for a field, one for each class that has it."""
    diffusers = importlib.import_module("diffusers")
    kinds = [getattr(diffusers, name, None) for name in dir(diffusers) if name.endswith("Scheduler")]
    known = [_defaults(kind) for kind in kinds if isinstance(kind, type)]
    return [defaults[key] for defaults in known if key in defaults]


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
        named = {str(key): item for key, item in value.items()}
        return {key: _plain(item) for key, item in plain_config(named).items()}
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return str(value)
