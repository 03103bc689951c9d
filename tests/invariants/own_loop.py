"""A training loop in the style that people write at home, with each of its parts open to being forgotten.

It has what the built-in trainers lack: a schedule, noise from the global generator, clips in an order, an average.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel

from pytest_genmodel.pipelines.library import quiet
from pytest_genmodel.pipelines.probing import ProbeWishes, make_probe
from pytest_genmodel.pipelines.saving import save
from pytest_genmodel.training.loop import load_for_training, moving_clip
from pytest_genmodel.training.resuming import newest_state


def train(
    reference: Path,
    *,
    lr: float,
    steps: int,
    seed: int,
    output: Path,
    resume: Path | None = None,
    forgets: tuple[str, ...] = (),
    average: type[EMAModel] = EMAModel,
    written: Any = None,
    **settings: Any,
) -> Path:
    """Train the whole transformer; `forgets` names the parts of the state that a resumed run does not take up.

    `average` is the class of the running average, made with `settings`; `written(folder)` is called at the end.
    """
    pipeline = load_for_training(reference)
    transformer = pipeline.diffusers.transformer.requires_grad_(True)
    parameters = list(transformer.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    ema = average(parameters, **{"decay": 0.9, **settings})
    probe = make_probe(ProbeWishes(seed=seed), pipeline.checkpoint, pipeline.family, full=False)
    clips = [moving_clip(probe), moving_clip(probe).flip(0)]
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        step = seen = 0
        if resume is not None:
            state = torch.load(newest_state(output) / "state.pt", weights_only=True)
            step = seen = state["step"]
            transformer.load_state_dict(state["weights"])
            parts = {"moments": optimizer, "schedule": schedule, "average": ema}
            for name, part in parts.items():
                if name not in forgets:
                    part.load_state_dict(state[name])
            if "random" not in forgets:
                torch.set_rng_state(state["random"])
            if "order" in forgets:
                seen = 0
        while step < steps:
            loss = pipeline.family.training_loss(
                pipeline.diffusers, clips[seen % len(clips)], probe.prompt, torch.default_generator
            )
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            ema.step(parameters)
            step, seen = step + 1, seen + 1
        folder = output / f"checkpoint-{step}"
        transformer.save_pretrained(folder / "transformer")
        averaged = copy.deepcopy(transformer)
        ema.copy_to(averaged.parameters())
        averaged.register_to_config(**{k: v for k, v in ema.state_dict().items() if k != "shadow_params"})
        averaged.save_pretrained(folder / "transformer_ema")
        state = {
            "step": step,
            "weights": transformer.state_dict(),
            "moments": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "average": ema.state_dict(),
            "random": torch.get_rng_state(),
        }
        torch.save(state, folder / "state.pt")
        ema.copy_to(parameters)
    save(pipeline.diffusers, output, reference.name)
    if written is not None:
        written(folder)
    return output
