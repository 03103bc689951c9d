"""sound_schedule: closed forms of every scheduler in use, and a library that computes something else."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.schedules import closed_form
from tests.editing import edit_json

SVD = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "use_karras_sigmas": True,
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_type": "continuous",
    "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
# As the released models of each family configure it, and each branch of the closed forms.
CONFIGURED = [
    ("CogVideoXDDIMScheduler", {**ZERO_SNR, "snr_shift_scale": 1.0}),
    ("CogVideoXDDIMScheduler", {"timestep_spacing": "linspace", "beta_schedule": "linear"}),
    ("CogVideoXDPMScheduler", {**ZERO_SNR, "snr_shift_scale": 3.0}),
    ("DDIMScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    ("DDIMScheduler", {**ZERO_SNR, "beta_schedule": "squaredcos_cap_v2"}),
    ("EulerDiscreteScheduler", SVD),
    ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    ("EulerDiscreteScheduler", {**ZERO_SNR, "beta_schedule": "scaled_linear"}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 7.0}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "shift_terminal": 0.1}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "time_shift_type": "linear"}),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 5.0, "prediction_type": "flow_prediction"}),
]  # fmt: skip


@pytest.mark.parametrize("steps", [1, 4, 30, 50])
@pytest.mark.parametrize(("name", "config"), CONFIGURED)
def test_closed_form_is_what_the_library_computes(name, config, steps):
    scheduler = getattr(diffusers, name)(**config)
    expected = closed_form(name, scheduler.config, steps)
    if expected is None:
        assert (steps, config.get("shift_terminal")) == (1, 0.1)
        return

    scheduler.set_timesteps(steps, **expected.call)

    for array, values in expected.arrays.items():
        np.testing.assert_allclose(
            np.asarray(getattr(scheduler, array).double()), values, rtol=1e-4, atol=1e-6
        )


def test_settings_without_a_closed_form_have_none():
    config = {**diffusers.EulerDiscreteScheduler().config, "use_exponential_sigmas": True}

    assert closed_form("EulerDiscreteScheduler", config, 4) is None
    assert closed_form("HeunDiscreteScheduler", diffusers.HeunDiscreteScheduler().config, 4) is None
    assert (
        closed_form("DDIMScheduler", {**diffusers.DDIMScheduler().config, "trained_betas": [0.1]}, 4) is None
    )


def test_healthy_schedule_arrives(judged, healthy):
    verdict = judged("sound_schedule", healthy)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert verdict.measurements["walk"] < 1e-5


@pytest.mark.parametrize(("name", "config"), CONFIGURED)
def test_no_configuration_in_use_is_a_false_alarm(judged, copy, name, config):
    getattr(diffusers, name)(**config).save_pretrained(copy / "scheduler")
    edit_json(copy / "model_index.json", scheduler=["diffusers", name])

    verdict = judged("sound_schedule", copy)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_unknown_class_is_skipped_with_its_name(judged, copy):
    diffusers.HeunDiscreteScheduler().save_pretrained(copy / "scheduler")
    edit_json(copy / "model_index.json", scheduler=["diffusers", "HeunDiscreteScheduler"])

    verdict = judged("sound_schedule", copy)

    assert verdict.outcome is Outcome.SKIPPED
    assert "HeunDiscreteScheduler" in verdict.reason


def test_noise_cannot_be_predicted_at_zero_snr(judged, copy):
    edit_json(copy / "scheduler" / "scheduler_config.json", prediction_type="epsilon")

    [finding] = judged("sound_schedule", copy).findings

    assert (finding.code, finding.location) == ("GM412", "scheduler_config.json:prediction_type")


def test_library_that_rescales_twice_is_caught_without_a_reference(judged, healthy, monkeypatch):
    from diffusers.schedulers import scheduling_ddim_cogvideox as library

    once = library.rescale_zero_terminal_snr
    monkeypatch.setattr(library, "rescale_zero_terminal_snr", lambda alphas: once(once(alphas) ** 0.9 + 1e-3))

    [finding] = judged("sound_schedule", healthy, healthy).findings

    assert (finding.code, finding.component, finding.location) == (
        "GM410",
        "scheduler",
        "scheduler:alphas_cumprod",
    )


def test_library_that_starts_one_step_late_is_caught(judged, healthy, monkeypatch):
    original = diffusers.CogVideoXDDIMScheduler.set_timesteps

    def late(self, steps, device=None):
        original(self, steps, device)
        self.timesteps = self.timesteps + 1

    monkeypatch.setattr(diffusers.CogVideoXDDIMScheduler, "set_timesteps", late)

    [finding] = judged("sound_schedule", healthy).findings

    assert (finding.code, finding.location) == ("GM410", "scheduler:timesteps")


def test_step_with_a_wrong_sign_does_not_arrive(judged, healthy, monkeypatch):
    original = diffusers.CogVideoXDDIMScheduler.step
    monkeypatch.setattr(
        diffusers.CogVideoXDDIMScheduler,
        "step",
        lambda self, output, *more, **named: original(self, -output, *more, **named),
    )

    [finding] = judged("sound_schedule", healthy).findings

    assert (finding.code, finding.location) == ("GM411", "scheduler:step")
