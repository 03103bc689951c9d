"""The training state of the built-in trainers: what a run needs to go on as if it had never stopped.

`checkpoint-N/training_state.pt` holds the trained parameters in float32 by name, the optimizer's state, the state of
the generator that noise and timesteps are drawn from, and the number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import BadInputError

if TYPE_CHECKING:
    import torch

STATE = "training_state.pt"


def save_state(
    output: Path,
    step: int,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> Path:
    """Write the state after `step` steps below `output`, and give its folder."""
    import torch

    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "parameters": {name: parameter.detach().cpu() for name, parameter in parameters.items()},
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
    }
    torch.save(state, folder / STATE)
    return folder


def load_state(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> int:
    """Put the state that `save_state` wrote back, every name of it; gives the number of steps taken.

    Raises:
        BadInputError: no state lies there, or it is that of another set of parameters.
    """
    import torch

    file = folder / STATE
    if not file.is_file():
        raise BadInputError(f"{folder.name} holds no {STATE} to resume from")
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    saved = state["parameters"]
    if saved.keys() != parameters.keys():
        odd = sorted(saved.keys() ^ parameters.keys())
        raise BadInputError(f"{folder.name}/{STATE} is of other parameters than are trained: {odd[0]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    return int(state["step"])
