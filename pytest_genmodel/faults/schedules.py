"""Faults of a library's schedulers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from pytest_genmodel.faults.copy import Copy
from pytest_genmodel.faults.library import class_of
from pytest_genmodel.faults.registry import Place, broken_library
from pytest_genmodel.pipelines.replaced import Original, replaced

_SHIFT = "https://github.com/huggingface/diffusers/pull/13706"


def _flow_matching(copy: Copy) -> Any:
    cls = class_of(copy, "scheduler")
    if cls.__name__ != "FlowMatchEulerDiscreteScheduler":
        copy.does_not_apply("the scheduler is no FlowMatchEulerDiscreteScheduler")
    return cls


@broken_library(
    "GM410",
    "sound_schedule",
    layer="scheduler",
    level="static",
    model="hunyuan-i2v",
    place=Place("scheduler", "scheduler:timesteps"),
    entries=("flowmatch-double-shift",),
    seen_in=_SHIFT,
)
@contextmanager
def shifted_twice(copy: Copy) -> Iterator[None]:
    """The noise levels are shifted when the scheduler is made, and again when the steps are set."""

    def make(original: Original) -> Original:
        @wraps(original)
        def set_timesteps(self: Any, *arguments: Any, **options: Any) -> None:
            original(self, *arguments, **options)
            shift, sigmas = 3.0, self.sigmas
            self.sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
            self.timesteps = self.sigmas[:-1] * self.config.num_train_timesteps

        return set_timesteps

    with replaced(_flow_matching(copy), "set_timesteps", make):
        yield


@broken_library(
    "GM605",
    "save_load_round_trip",
    layer="scheduler",
    model="hunyuan-i2v",
    place=Place("scheduler", "scheduler:shift"),
    entries=("runtime-shift-not-serialised",),
    seen_in="https://github.com/huggingface/diffusers/pull/10269",
)
@contextmanager
def shift_of_the_run_not_saved(copy: Copy) -> Iterator[None]:
    """A shift that was set on the live scheduler is not in what is saved."""
    set_once: list[bool] = []

    def make(original: Original) -> Original:
        def from_pretrained(*arguments: Any, **options: Any) -> Any:
            scheduler = original(*arguments, **options)
            if not set_once:
                set_once.append(True)
                scheduler.set_shift(3.0)
            return scheduler

        return from_pretrained

    with replaced(_flow_matching(copy), "from_pretrained", make):
        yield


@broken_library(
    "GM411",
    "sound_schedule",
    layer="scheduler",
    level="static",
    place=Place("scheduler", "scheduler:step"),
    entries=("scheduler-state-leaks-between-calls",),
    seen_in="https://github.com/huggingface/diffusers/pull/2376",
)
@contextmanager
def state_kept_between_calls(copy: Copy) -> Iterator[None]:
    """The scheduler keeps the last prediction of one call for the first step of the next."""

    def make(original: Original) -> Original:
        def step(self: Any, prediction: Any, *arguments: Any, **options: Any) -> Any:
            before = getattr(self, "_last_prediction", None)
            self._last_prediction = prediction
            if before is not None and before.shape == prediction.shape:
                prediction = prediction + 0.1 * before
            return original(self, prediction, *arguments, **options)

        return step

    with replaced(class_of(copy, "scheduler"), "step", make):
        yield


@broken_library(
    "GM940",
    "absolute_checks",
    place=Place("scheduler", "scheduler:add_noise"),
    layer="scheduler",
    entries=("add-noise-half-precision-no-noise",),
    seen_in="https://github.com/huggingface/diffusers/pull/9004",
)
@contextmanager
def noise_lost_in_half_precision(copy: Copy) -> Iterator[None]:
    """Noise is added with levels rounded to bfloat16: the smallest amounts are none."""

    def make(original: Original) -> Original:
        def add_noise(self: Any, samples: Any, noise: Any, timesteps: Any) -> Any:
            import torch

            kept = self.alphas_cumprod
            self.alphas_cumprod = kept.to(torch.bfloat16).to(kept.dtype)
            try:
                return original(self, samples, noise, timesteps)
            finally:
                self.alphas_cumprod = kept

        return add_noise

    if "alphas_cumprod" not in vars(class_of(copy, "scheduler")()):
        copy.does_not_apply("the scheduler has no table of noise levels")
    with replaced(class_of(copy, "scheduler"), "add_noise", make):
        yield


@broken_library(
    "GM411", "sound_schedule", layer="scheduler", level="static", place=Place("scheduler", "scheduler:step")
)
@contextmanager
def last_step_goes_half_way(copy: Copy) -> Iterator[None]:
    """The last step goes half of its way: the video keeps noise."""

    def make(original: Original) -> Original:
        def step(
            self: Any, prediction: Any, timestep: Any, sample: Any, *arguments: Any, **options: Any
        ) -> Any:
            result = original(self, prediction, timestep, sample, *arguments, **options)
            if not isinstance(result, tuple) or float(timestep) != float(self.timesteps[-1]):
                if hasattr(result, "prev_sample") and float(timestep) == float(self.timesteps[-1]):
                    result.prev_sample = (result.prev_sample + sample) / 2
                return result
            return ((result[0] + sample) / 2, *result[1:])

        return step

    with replaced(class_of(copy, "scheduler"), "step", make):
        yield
