"""Rules of configuration and schedule: 4xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM401",
        "configuration differs",
        "A value that the class really uses differs from the reference's: geometry, scaling, prediction type or "
        "schedule. Weights and shapes can be right and the video wrong.",
        "Copy the configuration file from the reference.",
        seen_in=(
            "https://github.com/huggingface/diffusers/issues/6923",
            "https://github.com/zai-org/CogVideo/issues/236",
            "https://github.com/huggingface/finetrainers/issues/110",
            "https://github.com/huggingface/diffusers/pull/11007",
            "https://github.com/mindspore-lab/mindone/issues/455",
        ),
        example="# vae/config.json of the candidate, then of the reference\n"
        '"scaling_factor": 1.15258426\n'
        '"scaling_factor": 0.7',
    ),
    Rule(
        "GM402",
        "schedule differs",
        "The scheduler takes other timesteps or noise levels than the reference's.",
        "Copy scheduler_config.json from the reference.",
        example='# timesteps of four steps: candidate ("linspace"), reference ("trailing")\n'
        "[999, 666, 333, 0]\n"
        "[999, 749, 499, 249]",
    ),
    Rule(
        "GM403",
        "tokenizer differs",
        "The same prompt becomes other token ids.",
        "Copy the tokenizer's folder from the reference.",
        seen_in=("https://github.com/huggingface/transformers/pull/24565",),
        example='>>> candidate.component("tokenizer")("a cat").input_ids\n'
        "[3, 9, 1712, 1]\n"
        '>>> reference.component("tokenizer")("a cat").input_ids\n'
        "[9, 1712, 1]",
    ),
    Rule(
        "GM404",
        "size of training differs",
        "A value that only says for which size the model was made differs from the reference's.",
        "Nothing to do if the model was trained for another size.",
        Severity.WARNING,
        seen_in=("https://github.com/huggingface/diffusers/pull/9877",),
        example="# transformer/config.json of the candidate, then of the reference\n"
        '"sample_width": 170\n'
        '"sample_width": 90',
    ),
    Rule(
        "GM410",
        "schedule is not what its configuration says",
        "The scheduler's noise levels or timesteps differ from those worked out from the definition of the schedule "
        "that its configuration names. Reference and candidate are sampled with the same library, so that comparing "
        "them shows nothing.",
        "Compare the installed diffusers with the version that the model was released with, and look for a scheduler "
        "class that was changed or derived.",
        seen_in=("https://github.com/huggingface/diffusers/pull/13706",),
        example="# the shift of scheduler_config.json is applied when the scheduler is made\n"
        "self.sigmas = shift(sigmas)\n"
        "# and once more in set_timesteps\n"
        "sigmas = shift(interpolate(self.sigmas, steps))",
    ),
    Rule(
        "GM411",
        "sampler does not arrive",
        "Given a denoiser that answers every step with the truth, the sampler must end at the clean sample. It does "
        "not: its step does not undo the noise that its schedule adds.",
        "Compare the installed diffusers with the version that the model was released with.",
        seen_in=("https://github.com/huggingface/diffusers/pull/2376",),
        example="def step(self, prediction, timestep, sample):\n"
        "    previous = a * clean(prediction) + b * noise(prediction)\n"
        "    return previous if timestep > 0 else (previous + sample) / 2",
    ),
    Rule(
        "GM412",
        "noise is predicted where there is nothing else",
        "With zero terminal SNR the first step starts from noise alone; a model that predicts the noise says "
        "nothing there, and the clean sample is what is left after a division by zero.",
        "Set prediction_type to v_prediction (CogVideoX-5B, 1.5), or rescale_betas_zero_snr to false, as the model "
        "was trained.",
        seen_in=("https://arxiv.org/abs/2305.08891",),
        example='# scheduler_config.json\n"prediction_type": "epsilon",\n"rescale_betas_zero_snr": true',
    ),
)
