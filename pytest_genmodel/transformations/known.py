"""What the installed libraries are known to do to a model: found by `strategies.NeutralMachine`, kept as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Step = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Known:
    """A sequence of steps of `NeutralModel` that breaks a healthy model, the shortest there is.

    `steps` are (method, arguments); `what` says what happens, `library` whose doing it is and in which release it was
    seen. The machine does not go there: its preconditions name the entry.
    """

    name: str
    library: str
    steps: tuple[Step, ...]
    what: str


NEW: Step = ("add_adapter", {"kind": "new"})
RANDOM: Step = ("add_adapter", {"kind": "random"})
KNOWN: dict[str, Known] = {
    entry.name: entry
    for entry in (
        Known(
            "save-with-adapter",
            "diffusers 0.42.1",
            (NEW, ("save_and_reload", {})),
            "saved with an adapter attached, the layers under it are written as `base_layer` and come back without "
            "memory (meta device); a log line tells, and nothing is raised until a sample meets them",
        ),
        Known(
            "unload-while-fused",
            "diffusers 0.42.1, peft 0.21.2",
            (RANDOM, ("fuse", {}), ("unload", {})),
            "the adapter is gone by name and stays in the weights, and nothing can take it out any more",
        ),
        Known(
            "weight-while-fused",
            "diffusers 0.42.1, peft 0.21.2",
            (RANDOM, ("fuse", {}), ("set_weight", {"weight": 0.5}), ("unfuse", {})),
            "unfusing takes out the adapter at the strength that is set now, not at the one that was put in: half of "
            "it stays in the base, in silence",
        ),
        Known(
            "train-while-fused",
            "peft 0.21.2",
            (RANDOM, ("fuse", {}), ("train_at_zero", {})),
            "a merged layer does not use its factors: with gradients of nothing the step raises",
        ),
        Known(
            "frozen-after-unload",
            "diffusers 0.42.1, peft 0.21.2",
            (NEW, ("unload", {}), ("train_at_zero", {})),
            "putting an adapter on freezes the base, and taking it off leaves it frozen: nothing can be trained",
        ),
    )
}
