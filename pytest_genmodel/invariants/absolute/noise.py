"""GM940: the noise that the scheduler adds, against the levels that its configuration names."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.invariants.context import Context
from pytest_genmodel.pipelines.effective import effective_config
from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.schedules import closed_form

LIMIT, ROUNDING = 1e-3, 2.0**-20
"""Relative limit of a level, and what a product of 1,000 float32 factors near 1 may be off by: the root of what is
left of 1 is off by half of that over itself (measured: 1.2e-5 at 0.0064)."""
SHARES = (0.0, 0.01, 0.1, 0.5, 0.9, 1.0)


def noise_findings(context: Context) -> Iterator[Finding]:
    """What `add_noise` makes of nothing but noise, and of nothing but signal, at a few timesteps."""
    import torch

    component = context.candidate.checkpoint.components.get("scheduler")
    if component is None:
        return
    live = context.candidate.component("scheduler")
    schedule = closed_form(component.class_name, effective_config(component), context.probe.steps)
    if schedule is None or "alphas_cumprod" not in schedule.arrays or not hasattr(live, "add_noise"):
        context.measure(added_noise="not judged: the class adds none, or no closed form is known here")
        return
    levels = schedule.arrays["alphas_cumprod"]
    fresh = type(live).from_config(live.config)
    timesteps = sorted({round(share * (len(levels) - 1)) for share in SHARES})
    ones, zeros = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)
    for timestep in timesteps:
        at = torch.tensor([timestep])
        with quiet():
            made = {
                "noise": float(fresh.add_noise(zeros, ones, at)),
                "signal": float(fresh.add_noise(ones, zeros, at)),
            }
        expected = {"noise": (1 - levels[timestep]) ** 0.5, "signal": levels[timestep] ** 0.5}
        for what, factor in expected.items():
            if abs(made[what] - factor) > LIMIT * factor + ROUNDING / max(factor, ROUNDING**0.5):
                yield Finding(
                    "GM940",
                    f"at timestep {timestep} the {what} is added with the factor {made[what]:.6g}, and the schedule "
                    f"says {factor:.6g}",
                    component="scheduler",
                    location="scheduler:add_noise",
                    cause="levels that were rounded before one was taken from the other lose the smallest amounts"
                    if what == "noise"
                    else None,
                    evidence={"timestep": timestep, "factor": made[what], "expected": float(factor)},
                )
                return
    context.measure(noise_levels=len(timesteps))
