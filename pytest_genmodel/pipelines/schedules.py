"""Noise schedules in closed form: what a scheduler's arrays must be by its configuration, in float64.

Worked out from the definitions and not from the library's code, so that a version of the library that computes
something else is seen although it does so for every checkpoint alike. Sources (arXiv): DDPM 2006.11239; the cosine
schedule 2102.09672; zero terminal SNR and the three spacings 2305.08891, table 2 and algorithm 1; the SNR shift
2403.03206, section 5.3.2; Karras' steps 2206.00364, equation 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

KARRAS_RHO = 7.0
ALMOST_ZERO = 2.0**-24
"""What stands for the last alpha where it is zero and a class divides by it (the smallest half-precision number)."""
MU = 0.75
"""The shift handed to a schedule that takes it from each call (`use_dynamic_shifting`); any number serves."""


@dataclass(frozen=True)
class Schedule:
    """A schedule of `len(signal)` steps.

    `arrays` are the scheduler's attributes as they must be. `signal` and `noise` are the factors of the clean sample
    and of the noise in what the scheduler walks on, before each step; `last` is that pair after the last step. `call`
    is what `set_timesteps` needs beside the steps, `prediction` what the model is asked for: see `model_output`.
    `joined` is off where a step does not end at the level at which the next begins: DDIM goes down by a whole number
    of training steps, whatever the spacing.
    """

    arrays: Mapping[str, Array]
    signal: Array
    noise: Array
    last: tuple[float, float]
    call: Mapping[str, Any]
    prediction: str
    joined: bool = True


def closed_form(class_name: str, config: Mapping[str, Any], steps: int) -> Schedule | None:
    """Give the schedule of `steps` steps; None where no closed form is known for the class or the settings.

    Args:
        class_name: of a diffusers scheduler.
        config: its effective configuration, defaults filled in.
        steps: number of denoising steps, 1 or more.
    """
    form = _FORMS.get(class_name)
    if form is None or config.get("trained_betas") is not None:
        return None
    if config.get("use_exponential_sigmas") or config.get("use_beta_sigmas") or config.get("thresholding"):
        return None
    if config.get("shift_terminal") and steps == 1:
        return None  # the first level would be the last
    return form(config, steps)


def _alphas(config: Mapping[str, Any]) -> Array:
    """The cumulative product of 1 - beta over the training steps; the signal's share of the variance."""
    import numpy as np

    count, kind = config["num_train_timesteps"], config["beta_schedule"]
    begin, end = config["beta_start"], config["beta_end"]
    if kind == "squaredcos_cap_v2":
        bar = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    elif kind == "linear":
        betas = np.linspace(begin, end, count)
    else:
        betas = np.linspace(begin**0.5, end**0.5, count) ** 2
    alphas: Array = np.cumprod(1 - betas)
    return alphas


def _no_signal_at_the_end(alphas: Array) -> Array:
    """Shift and scale the roots so that the last is zero and the first stays (2305.08891, algorithm 1)."""
    import numpy as np

    roots = np.sqrt(alphas)
    shifted: Array = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return shifted


def _spaced(config: Mapping[str, Any], steps: int) -> Array:
    """Training steps that `steps` denoising steps visit, the noisiest first."""
    import numpy as np

    count, spacing = config["num_train_timesteps"], config["timestep_spacing"]
    if spacing == "linspace":
        spread: Array = np.rint(np.linspace(0, count - 1, steps, dtype=np.float64))[::-1]
        return spread
    if spacing == "leading":
        leading: Array = np.arange(steps, dtype=np.float64)[::-1] * (count // steps) + config["steps_offset"]
        return leading
    trailing: Array = np.rint(np.arange(count, 0, -count / steps, dtype=np.float64)) - 1
    return trailing


def _variance_preserving(config: Mapping[str, Any], steps: int, alphas: Array) -> Schedule:
    import numpy as np

    timesteps = _spaced(config, steps)
    signal = np.sqrt(alphas[timesteps.astype(int)])
    last = 1.0 if config.get("set_alpha_to_one", True) else float(alphas[0])
    return Schedule(
        {"timesteps": timesteps, "alphas_cumprod": alphas},
        signal,
        np.sqrt(1 - signal**2),
        (last**0.5, (1 - last) ** 0.5),
        {},
        config["prediction_type"],
        bool((np.diff(timesteps) == -(len(alphas) // steps)).all()),
    )


def _ddim(config: Mapping[str, Any], steps: int) -> Schedule:
    alphas = _alphas(config)
    if config["rescale_betas_zero_snr"]:
        alphas = _no_signal_at_the_end(alphas)
    return _variance_preserving(config, steps, alphas)


def _cogvideox(config: Mapping[str, Any], steps: int) -> Schedule:
    alphas, shift = _alphas(config), config["snr_shift_scale"]
    alphas = alphas / (shift + (1 - shift) * alphas)  # the ratio of signal to noise, divided by the shift
    if config["rescale_betas_zero_snr"]:
        alphas = _no_signal_at_the_end(alphas)
    return _variance_preserving(config, steps, alphas)


def _shifted(config: Mapping[str, Any], sigmas: Array, shift: float) -> Array:
    if config.get("use_dynamic_shifting"):
        shift = exp(MU) if config.get("time_shift_type", "exponential") == "exponential" else MU
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    if terminal := config.get("shift_terminal"):
        sigmas = 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
    return sigmas


def _flow(sigmas: Array, timesteps: Array, call: Mapping[str, Any]) -> Schedule:
    import numpy as np

    return Schedule(
        {"timesteps": timesteps, "sigmas": np.append(sigmas, 0.0)},
        1 - sigmas,
        sigmas,
        (1.0, 0.0),
        call,
        "flow_prediction",
    )


def _flow_euler(config: Mapping[str, Any], steps: int) -> Schedule | None:
    import numpy as np

    if config["invert_sigmas"] or config["use_karras_sigmas"] or config["stochastic_sampling"]:
        return None
    count, shift = config["num_train_timesteps"], config["shift"]
    dynamic = config["use_dynamic_shifting"]
    smallest = 1 / count
    if not dynamic:  # the class walks to the smallest level that it has shifted already
        smallest = shift * smallest / (1 + (shift - 1) * smallest)
    sigmas = _shifted(config, np.linspace(1.0, smallest, steps), shift)
    return _flow(sigmas, sigmas * count, {"mu": MU} if dynamic else {})


def _unipc(config: Mapping[str, Any], steps: int) -> Schedule | None:
    import numpy as np

    if config["use_karras_sigmas"] or not config["use_flow_sigmas"] or config["final_sigmas_type"] != "zero":
        return None
    count = config["num_train_timesteps"]
    sigmas = _shifted(config, np.linspace(1.0, 1 / count, steps + 1)[:-1], config["flow_shift"])
    sigmas = np.minimum(sigmas, 1 - 1e-6)  # the logarithm of the signal is taken
    return _flow(sigmas, np.floor(sigmas * count), {"mu": MU} if config["use_dynamic_shifting"] else {})


def _euler(config: Mapping[str, Any], steps: int) -> Schedule | None:
    import numpy as np

    continuous = config["timestep_type"] == "continuous" and config["prediction_type"] == "v_prediction"
    if config["interpolation_type"] != "linear" or config["final_sigmas_type"] != "zero":
        return None
    alphas = _alphas(config)
    if config["rescale_betas_zero_snr"]:
        alphas = _no_signal_at_the_end(alphas)
        alphas[-1] = ALMOST_ZERO
    levels = np.sqrt((1 - alphas) / alphas)
    timesteps = _spaced(config, steps)
    if config["timestep_spacing"] == "linspace":  # this class interpolates between training steps
        timesteps = np.linspace(0, config["num_train_timesteps"] - 1, steps)[::-1]
    sigmas = np.interp(timesteps, np.arange(len(levels)), levels)
    if config["use_karras_sigmas"]:
        if not continuous:
            return None  # the time of a level is looked up in a table, by the class's own rule
        high = config["sigma_max"] if config["sigma_max"] is not None else sigmas[0]
        low = config["sigma_min"] if config["sigma_min"] is not None else sigmas[-1]
        ramp = np.linspace(high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO), steps)
        sigmas = ramp**KARRAS_RHO
    if continuous:
        timesteps = 0.25 * np.log(sigmas)
    return Schedule(
        {"timesteps": timesteps, "sigmas": np.append(sigmas, 0.0)},
        np.ones_like(sigmas),
        sigmas,
        (1.0, 0.0),
        {},
        f"exploding_{config['prediction_type']}",
    )


_FORMS: Mapping[str, Callable[[Mapping[str, Any], int], Schedule | None]] = {
    "CogVideoXDDIMScheduler": _cogvideox,
    "CogVideoXDPMScheduler": _cogvideox,
    "DDIMScheduler": _ddim,
    "EulerDiscreteScheduler": _euler,
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
    "UniPCMultistepScheduler": _unipc,
}

STOCHASTIC = frozenset({"CogVideoXDPMScheduler"})
"""Classes whose step draws noise of its own: given the truth, they do not stay on one line."""


def model_output(schedule: Schedule, step: int, clean: Array, noise: Array) -> Array | None:
    """What a model that knows the truth puts out before step number `step`; None for an unknown prediction type.

    Args:
        schedule: as `closed_form` gives it.
        step: from 0.
        clean: the clean sample, any shape.
        noise: standard normal, of the same shape.
    """
    signal, level = schedule.signal[step], schedule.noise[step]
    outputs: Mapping[str, Callable[[], Array]] = {
        "epsilon": lambda: noise,
        "sample": lambda: clean,
        "v_prediction": lambda: signal * noise - level * clean,
        "flow_prediction": lambda: noise - clean,
        "exploding_epsilon": lambda: noise,
        # The model sees the sample over sqrt(level^2 + 1), which is of unit variance: v is that of 2202.00512 there.
        "exploding_v_prediction": lambda: (noise - level * clean) / (level**2 + 1) ** 0.5,
    }
    made = outputs.get(schedule.prediction)
    return None if made is None else made()
