"""known_fields: every field of a configuration is one that the installed class knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from packaging.version import InvalidVersion, Version

from pytest_genmodel.checkpoints.checkpoint import INDEX
from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.digest import plain_config
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.rules import Severity
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import Level, invariant
from pytest_genmodel.pipelines.effective import known_fields as fields_of_class
from pytest_genmodel.pipelines.effective import scheduler_defaults
from pytest_genmodel.pipelines.library import class_named

LEFT_OUT = frozenset(
    {
        *("quantization_config", "architectures", "model_type", "framework_version"),
        # diffusers' EMAModel keeps its own settings in the configuration of the model that it saves
        *(
            "decay",
            "min_decay",
            "inv_gamma",
            "power",
            "optimization_step",
            "update_after_step",
            "use_ema_warmup",
        ),
    }
)
"""Fields that other parts of the libraries read, or nobody."""
OFF: tuple[Any, ...] = (None, False, "", [], {})
"""Values with which a field would do nothing, were it known."""
GEOMETRY = (
    *(
        "patch",
        "channels",
        "dim",
        "heads",
        "layers",
        "rope",
        "rotary",
        "pos_embed",
        "positional",
        "norm",
        "scaling",
    ),
    *("compression", "shift", "ratio", "prediction", "cond", "mean", "std"),
)
"""Words in names that decide what a model computes; an unknown field without one, and unlike any known, is a note."""
UNSHIFTED = {"shift": 1, "flow_shift": 1, "snr_shift_scale": 1}
"""Factors at which a schedule is left as it is."""
CLOSE = 0.85
"""How alike two names are, as a ratio, of which one is taken for the other misspelt."""


@invariant(level=Level.STATIC)
def known_fields(context: Context) -> Iterator[Finding]:
    """No field of a diffusers configuration is passed over by the installed class; none is of a later version.

    Fields that are off, private ones, those of a quantised file, and what a scheduler keeps of its kind are silent.
    No reference is needed: both sides are read by the same library.
    """
    checkpoint = context.candidate.checkpoint
    looked_at = 0
    versions = {}
    for name, component in checkpoint.components.items():
        config = component.config
        if component.library != "diffusers" or not config:
            continue
        looked_at += len(config)
        written = _written_by(config)
        if written is not None and _is_later(written):
            versions[name] = written
        yield from _unknown(component, config, name in versions)
    yield from _arguments(context)
    if versions:
        first, written = next(iter(versions.items()))
        yield Finding(
            "GM434",
            f"{'the ' + first if len(versions) == 1 else ', '.join(versions)} was written by diffusers {written}; "
            f"{_installed()} is installed",
            component=first,
            location=f"{checkpoint.components[first].config_name}:_diffusers_version",
            evidence={"written_by": written, "installed": _installed(), "components": sorted(versions)},
        )
    context.measure(fields=looked_at)


def _unknown(component: Component, config: Mapping[str, Any], is_later: bool) -> Iterator[Finding]:
    cls = class_named(component.home, component.class_name)
    known = fields_of_class(cls)
    if known is None:
        return
    for key, value in plain_config(config).items():
        if key in known or key in LEFT_OUT or value in OFF:
            continue
        decides = any(word in key for word in GEOMETRY) and not _says_nothing(cls, key, value)
        meant = get_close_matches(key, known, n=1, cutoff=CLOSE)
        yield Finding(
            "GM433" if decides and is_later else "GM432",
            f"{component.class_name} of diffusers {_installed()} does not know {key} = {_short(value)}, and passes "
            "over it",
            component=component.name,
            location=f"{component.config_name}:{key}",
            severity=None if decides or meant else Severity.NOTE,
            cause=f"the file was written by diffusers {_written_by(config)}, which has the field"
            if is_later
            else f"{meant[0]} was probably meant"
            if meant
            else "a leftover, or a field that another version or class has",
            evidence={"key": key, "value": _short(value), "installed": _installed()},
        )


def _says_nothing(cls: Any, key: str, value: Any) -> bool:
    """Whether a scheduler has only kept what another class of scheduler writes by default, or what changes nothing.

    `from_config` of diffusers hands the whole configuration on to the new class, and `save_pretrained` writes it.
    """
    return hasattr(cls, "_compatibles") and (UNSHIFTED.get(key) == value or value in scheduler_defaults(key))


def _arguments(context: Context) -> Iterator[Finding]:
    """The model index's own values: an argument of the pipeline's class, or nothing."""
    checkpoint = context.candidate.checkpoint
    try:
        known = fields_of_class(class_named("diffusers", str(checkpoint.pipeline_class)))
    except BadInputError:
        return
    for key, value in checkpoint.pipeline_arguments.items():
        if (
            known is None
            or key in known
            or key.startswith("_")
            or value in OFF
            or key in checkpoint.components
        ):
            continue
        if isinstance(value, (list, Mapping)):
            continue  # a component that the class has no place for: coverage's affair
        yield Finding(
            "GM432",
            f"{checkpoint.pipeline_class} of diffusers {_installed()} does not know {key} = {_short(value)}, "
            "and passes over it",
            location=f"{INDEX}:{key}",
            cause="a name that was misspelt, or that another version of the class has",
            evidence={"key": key, "value": _short(value), "installed": _installed()},
        )


def _written_by(config: Mapping[str, Any]) -> str | None:
    written = config.get("_diffusers_version")
    return written if isinstance(written, str) else None


def _is_later(written: str) -> bool:
    """By release: a development version of the installed release is not later than it."""
    try:
        return Version(Version(written).base_version) > Version(Version(_installed()).base_version)
    except InvalidVersion:
        return False


def _installed() -> str:
    from importlib.metadata import version

    return version("diffusers")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
