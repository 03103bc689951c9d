"""Rules about baselines: GM020 to GM029."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

RULES = (
    Rule(
        "GM020",
        "stale baseline",
        "The reference is no longer the one that the baseline was made of. A run without the reference would judge "
        "candidates by a model that nobody uses any more.",
        "Look at what changed; where it is meant, make the baseline again with `--genmodel-update-baseline`.",
        example="pytest --genmodel-ckpt=run-17 --genmodel-ref=model \\\n"
        "    --genmodel-baseline=model.baseline\n"
        "# model was trained on since model.baseline was made",
    ),
    Rule(
        "GM021",
        "same model, another sample than the baseline's",
        "Weights, configuration and probe are those of the baseline, digest by digest, and the sample is another: "
        "what changed is the program that runs them, a library or this machine.",
        "Compare the versions that the finding lists; go back to the old ones, one at a time, until the sample comes "
        "back.",
        example="# when the baseline was made      now\n"
        "diffusers 0.38.0                  diffusers 0.39.0\n"
        "step 1: -0.4182, 0.0311, ...      step 1: -0.4182, 0.0297, ...",
    ),
)
