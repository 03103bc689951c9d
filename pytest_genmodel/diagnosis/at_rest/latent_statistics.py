"""The mean and the spread of an autoencoder's latents, where they are what a new one starts with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_genmodel.diagnosis.at_rest.part import Part
from pytest_genmodel.diagnosis.finding import Finding

_MEAN, _SPREAD = "latents_mean", "latents_std"


def latent_statistics(part: Part) -> Iterator[Finding]:
    """Every mean is 0 and every spread 1: the statistics were never measured, or were lost in conversion.

    Families keep them as buffers beside the weights (LTX) or in the configuration (Wan).
    """
    if part.component is None or not part.name.startswith("vae"):
        return
    config = part.component.config
    stored = part.weights.tensors
    if _MEAN in stored and _SPREAD in stored:
        mean, spread = (part.statistics[name] for name in (_MEAN, _SPREAD))
        is_new = mean.zeros == mean.numel and spread.constant and spread.mean == 1.0
        location = _MEAN
    else:
        is_new = _all(config.get(_MEAN), 0.0) and _all(config.get(_SPREAD), 1.0)
        location = f"{part.component.config_name}:{_MEAN}"
    if is_new:
        part.told.update((_MEAN, _SPREAD))
        yield Finding(
            "GM333",
            f"every {_MEAN} is 0 and every {_SPREAD} is 1",
            component=part.name,
            location=location,
            cause="the converter did not carry the statistics over, and the class's own values took their place",
        )


def _all(values: Any, number: float) -> bool:
    return isinstance(values, Sequence) and len(values) > 1 and all(value == number for value in values)
