"""Neutral steps in any order: hypothesis looks for the shortest sequence that breaks the model."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from pytest_genmodel.transformations.known import KNOWN
from pytest_genmodel.transformations.sequences import BrokenModelError, NeutralModel
from pytest_genmodel.transformations.shortest import shortened


class NeutralMachine(RuleBasedStateMachine):
    """Steps of `NeutralModel`, each checked; what the libraries are known to break is left out (`guarded`).

    Use it as a test case, `TestNeutral = NeutralMachine.TestCase`, or with `shortest_sequence`. `spec` is any whole
    pipeline that is small enough for dozens of samples.
    """

    spec = "tiny:cogvideox-i2v"
    guarded = True

    def __init__(self) -> None:
        super().__init__()
        self.model = NeutralModel(self.spec)

    def avoids(self, name: str) -> bool:
        """Whether the machine keeps clear of this entry of `KNOWN`."""
        return self.guarded and name in KNOWN

    @precondition(lambda self: self.model.adapter is None)
    @rule(kind=st.sampled_from(["new", "random"]))
    def add_adapter(self, kind: Any) -> None:
        """Put on a LoRA."""
        self.model.add_adapter(kind)

    @precondition(lambda self: self.model.adapter is not None)
    @precondition(lambda self: self.model.fused is None or not self.avoids("weight-while-fused"))
    @rule(weight=st.sampled_from([0.0, 0.5, 1.0]))
    def set_weight(self, weight: float) -> None:
        """Let it act at another strength."""
        self.model.set_weight(weight)

    @precondition(lambda self: self.model.adapter is not None)
    @rule()
    def disable(self) -> None:
        """Switch it off."""
        self.model.disable()

    @precondition(lambda self: self.model.adapter is not None)
    @rule()
    def enable(self) -> None:
        """Switch it on."""
        self.model.enable()

    @precondition(lambda self: self.model.adapter is not None and self.model.fused is None)
    @rule()
    def fuse(self) -> None:
        """Merge it."""
        self.model.fuse()

    @precondition(lambda self: self.model.fused is not None)
    @rule()
    def unfuse(self) -> None:
        """Take it out again."""
        self.model.unfuse()

    @precondition(lambda self: self.model.adapter is not None)
    @precondition(lambda self: self.model.fused is None or not self.avoids("unload-while-fused"))
    @rule()
    def unload(self) -> None:
        """Take every adapter off."""
        self.model.unload()

    @precondition(lambda self: self.model.adapter is None or not self.avoids("save-with-adapter"))
    @rule()
    def save_and_reload(self) -> None:
        """Save and load again."""
        self.model.save_and_reload()

    @rule()
    def deepcopy(self) -> None:
        """Go on with a copy."""
        self.model.deepcopy()

    @rule()
    def from_pipe(self) -> None:
        """Go on with another pipeline object."""
        self.model.from_pipe()

    @rule()
    def float64_and_back(self) -> None:
        """To float64 and back."""
        self.model.float64_and_back()

    @rule()
    def slice(self) -> None:
        """Slicing on and off."""
        self.model.slice()

    @rule()
    def tile(self) -> None:
        """Tiling on and off."""
        self.model.tile()

    @rule()
    def fuse_qkv(self) -> None:
        """Projections joined and taken apart."""
        self.model.fuse_qkv()

    @rule()
    def sample(self) -> None:
        """A sample of something else."""
        self.model.sample()

    @precondition(lambda self: self.model.fused is None or not self.avoids("train-while-fused"))
    @precondition(
        lambda self: (
            self.model.adapter is not None
            or not self.model.unloaded
            or not self.avoids("frozen-after-unload")
        )
    )
    @rule()
    def train_at_zero(self) -> None:
        """One step at learning rate 0."""
        self.model.train_at_zero()


def shortest_sequence(
    machine: type[NeutralMachine] = NeutralMachine,
    *,
    examples: int = 50,
    steps: int = 12,
    seed: int | None = None,
) -> str | None:
    """Run the machine, and give the shortest sequence that breaks the model: what happens, and a pasteable test.

    Args:
        machine: the machine, or one of its subclasses with another `spec`.
        examples: sequences that are tried.
        steps: steps in each, at most.
        seed: hypothesis' seed; None to have the same sequences in every run.

    Returns:
        None where no sequence breaks it.
    """
    import hypothesis

    wanted = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=seed is None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[hypothesis.Phase.generate],  # we shorten it ourselves: a step costs a sample
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    seeded = hypothesis.seed(seed)(machine) if seed is not None else machine
    try:
        run_state_machine_as_test(seeded, settings=wanted)
    except BrokenModelError as error:
        return str(shortened(error))
    return None
