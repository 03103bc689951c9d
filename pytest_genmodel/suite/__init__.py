"""The built-in suite: the claims that are judged when a candidate is given and no test file is.

Each line is what a user would write as `@pytest.mark.invariant(name, **parameters)`; copy what you need.
Importing this imports nothing heavy: collection must stay cheap.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Own = str | Callable[..., Any]
"""A trainer or an inference of the user's: how an option spells it, or the function that a hook gave."""


@dataclass(frozen=True)
class Claim:
    """An invariant with its parameters; `label` tells items of one invariant apart.

    `extra` is the optional package without which the claim is skipped: (package, extra that installs it).
    """

    invariant: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    extra: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """The item's name, `zero_lr_identity[lora]`."""
        return f"{self.invariant}[{self.label}]" if self.label else self.invariant


def suite_for(
    trainer: Own | None,
    ladder: tuple[float, ...] | None = None,
    sampler: Own | None = None,
    cache: str | None = None,
    *,
    baseline: bool = False,
    trace: bool = False,
) -> Mapping[str, tuple[Claim, ...]]:
    """The suite; with a trainer of the user's own in place of the built-in ones, a ladder of learning rates, the
    user's own inference, a precomputed data set, and a baseline, where they are given; `trace` adds the search for
    the first divergence.
    """
    suite = _with_trainer(trainer)
    if baseline:
        suite = {
            **suite,
            "checkpoint": (*suite["checkpoint"], Claim("baseline_is_current")),
            "sampling": (*suite["sampling"], Claim("sample_as_before")),
        }
    if trace:
        traced = (Claim("first_divergence"), Claim("swap_bisection"))
        suite = {**suite, "sampling": (*suite["sampling"], *traced)}
    if cache is not None:
        suite = {**suite, "training": (*suite["training"], Claim("cache_is_fresh", {"cache": cache}))}
    if sampler is not None:
        suite = {**suite, "sampling": (*suite["sampling"], *_own_inference(sampler, trainer))}
    if ladder is None:
        return suite
    names = (("full", "full"), ("lora", "lora")) if trainer is None else ((trainer, "trainer"),)
    claims = (
        Claim("lr_ladder", {"rates": ladder, "trainer": name}, label, _PEFT if name == "lora" else None)
        for name, label in names
    )
    return {**suite, "training": (*suite["training"], *claims)}


def _own_inference(sampler: Own, trainer: Own | None) -> Iterator[Claim]:
    yield Claim("own_inference", {"sampler": sampler})
    if trainer is not None:
        yield Claim("own_inference", {"sampler": sampler, "trainer": trainer}, "zero_lr")


def _with_trainer(trainer: Own | None) -> Mapping[str, tuple[Claim, ...]]:
    if trainer is None:
        return SUITE
    names = (
        *("zero_lr_identity", "learning_moves", "resume_is_exact", "ema_contracts"),
        *("training_conditions", "cache_is_fresh"),
    )
    return {**SUITE, "training": tuple(Claim(name, {"trainer": trainer}, "trainer") for name in names)}


_PEFT = ("peft", "lora")

SUITE: Mapping[str, tuple[Claim, ...]] = {
    "checkpoint": (
        Claim("coverage"),
        Claim("sound_weights"),
        Claim("same_weights"),
        Claim("same_config"),
        Claim("sound_schedule"),
        Claim("known_fields"),
    ),
    "round_trip": (Claim("save_load_round_trip"),),
    "sampling": (
        Claim("denoiser_call"),
        Claim("absolute_checks"),
        Claim("seeded_sampling"),
        Claim("sound_video"),
        Claim("sound_prediction"),
        Claim("sound_autoencoder"),
        Claim("reproducible"),
    ),
    "neutrality": (Claim("neutral_transformations"),),
    "liveness": (Claim("conditions_matter"), Claim("tensors_matter"), Claim("padding_is_ignored")),
    "training": (
        Claim("zero_lr_identity", {"trainer": "full"}, "full"),
        Claim("zero_lr_identity", {"trainer": "lora"}, "lora", _PEFT),
        Claim("learning_moves", {"trainer": "full"}, "full"),
        Claim("learning_moves", {"trainer": "lora"}, "lora", _PEFT),
        Claim("resume_is_exact", {"trainer": "full"}, "full"),
        Claim("resume_is_exact", {"trainer": "lora"}, "lora", _PEFT),
        Claim("training_conditions", {"trainer": "full"}, "full"),
    ),
    "adapters": (Claim("adapter_identity", extra=_PEFT),),
}
