"""sound_schedule: the scheduler does what its configuration says, whatever the library's version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.diagnosis.limit import against
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.invariants.registry import Level, invariant
from pytest_genmodel.pipelines.effective import effective_config, set_steps
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.schedules import STOCHASTIC, Schedule, closed_form, model_output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Limits between an array and its closed form: a product of 1,000 float32 factors is right to 1e-4 (measured 6e-5),
its rescaled end to 1e-6; the smallest change of configuration that was ever a fault moves it by 1e-2."""
WALKED = 10
"""Steps of the walk: it divides every count of training steps in use, so that no spacing has to round."""
ARRIVED = 1e-3
"""How far the walk may end from the clean sample, relative: float32 arrives within 2e-4 where the first noise is
4,096 times the signal, and within 1e-5 elsewhere."""
CLEAN, SHAPE = 0.9, (1, 4, 2, 4, 4)
"""The clean sample lies within this: some classes clip what they take it to be to [-1, 1]."""


@invariant(level=Level.STATIC)
def sound_schedule(context: Context) -> Iterator[Finding]:
    """The scheduler's arrays are those of their closed form, and a perfect denoiser arrives at the clean sample.

    An absolute check: it needs no reference, and a library version that is wrong for both sides alike cannot hide.
    """
    component = context.candidate.checkpoint.components.get("scheduler")
    if component is None:
        context.skip("the checkpoint has no scheduler")
    live = context.candidate.component("scheduler")  # one that does not load has no schedule to look at
    config = effective_config(component)
    steps = context.probe.steps
    expected = closed_form(component.class_name, config, steps)
    if expected is None:
        context.skip(f"no closed form is known here for a {component.class_name} with these settings")
    context.measure(steps=steps, scheduler=component.class_name)
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type") == "epsilon":
        yield _divides_by_zero(component)
        return
    wrong = list(_arrays(live, expected, steps))
    yield from wrong
    if not wrong and component.class_name not in STOCHASTIC:
        yield from _walk(context, live, closed_form(component.class_name, config, WALKED))


def _divides_by_zero(component: Component) -> Finding:
    return Finding(
        "GM412",
        "prediction_type is epsilon and rescale_betas_zero_snr is set: at the first step there is no signal, and the "
        "clean sample is what remains after a division by zero",
        component="scheduler",
        location="scheduler_config.json:prediction_type",
        evidence={"class": component.class_name},
    )


def _fresh(live: Any, schedule: Schedule, steps: int) -> Any:
    fresh = type(live).from_config(live.config)
    set_steps(fresh, steps, **schedule.call)
    return fresh


def _arrays(live: Any, schedule: Schedule, steps: int) -> Iterator[Finding]:
    import numpy as np

    fresh = _fresh(live, schedule, steps)
    for name, expected in schedule.arrays.items():
        array = getattr(fresh, name, None)
        actual = None if array is None else np.asarray(array.double().cpu())
        if actual is not None and actual.shape == expected.shape:
            if np.allclose(actual, expected, rtol=RELATIVE, atol=ABSOLUTE):
                continue
            worst = int(np.argmax(np.abs(actual - expected)))
            what = f"{name}[{worst}] is {actual[worst]:.6g}, and {expected[worst]:.6g} by its configuration"
        else:
            has = "missing" if actual is None else f"of shape {list(actual.shape)}"
            what = f"{name} is {has}, and has {len(expected)} values by its configuration"
        yield Finding(
            "GM410",
            f"for {steps} steps {what}",
            component="scheduler",
            location=f"scheduler:{name}",
            cause=f"{type(fresh).__name__} of the installed diffusers computes something else",
        )
        return


def _walk(context: Context, live: Any, schedule: Schedule | None) -> Iterator[Finding]:
    """Start from noise, answer every step with the truth, and look where it ends."""
    import numpy as np
    import torch

    if schedule is None or not schedule.joined:
        return
    random = np.random.default_rng(0)
    clean = random.uniform(-CLEAN, CLEAN, SHAPE)
    noise = random.standard_normal(SHAPE)
    fresh = _fresh(live, schedule, WALKED)
    sample = _mixed(clean, noise, schedule.signal[0], schedule.noise[0])
    for step, timestep in enumerate(fresh.timesteps):
        output = model_output(schedule, step, clean, noise)
        if output is None:
            return
        with quiet():
            if hasattr(fresh, "is_scale_input_called"):
                fresh.scale_model_input(sample, timestep)
            moved = fresh.step(torch.from_numpy(output).float(), timestep, sample, return_dict=False)
        sample = moved[0].float()
    arrived = _mixed(clean, noise, *schedule.last)
    distance = float((sample - arrived).norm() / arrived.norm())
    context.measure(walk=distance)
    if not distance <= ARRIVED:  # NaN is no arrival
        yield Finding(
            "GM411",
            f"a denoiser that knows the answer arrives {distance:.2g} (relative) from it in {WALKED} steps "
            f"(limit {ARRIVED:g}; prediction_type {schedule.prediction.removeprefix('exploding_')})",
            component="scheduler",
            location="scheduler:step",
            cause=f"{type(live).__name__}.step does not invert the noise that its own schedule adds",
            evidence=against(distance, ARRIVED, "relative distance"),
        )


def _mixed(clean: NDArray[np.float64], noise: NDArray[np.float64], signal: float, level: float) -> Any:
    import torch

    return torch.from_numpy(signal * clean + level * noise).float()
