"""What optimizers do at learning rate zero: those that are no identity, those that refuse it, and why.

Measured on three full fine-tuning steps of the tiny CogVideoX transformer, bit by bit; docs/optimizers.md has the
whole table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pytest_genmodel.training.observer import Observed

SMALLEST_RATE = 1e-46
"""No zero to a trainer that asks, and zero in float32."""
SMALLEST_NUMBER = 2.0**-149
"""Of float32 (1.4e-45); half of it and less is rounded to zero."""

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Habit:
    """Why an optimizer moves weights at rate zero; `applies` looks at its options (`Observed.options`)."""

    text: str
    applies: Callable[[Options], bool] = lambda _: True


def _relative_steps(options: Options) -> bool:
    return bool(options.get("relative_step", True))


def _decays_by_initial_rate(options: Options) -> bool:
    return bool(options.get("decoupled_wd")) and bool(options.get("weight_decay"))


def _without_eps(options: Options) -> bool:
    return options.get("eps") == 0


def _eps_underflows(options: Options) -> bool:
    """In float16 numbers below 3e-8 are zero; the fused kernels reckon in float32."""
    return (
        "float16" in options.get("dtypes", ()) and options.get("eps", 1.0) < 3e-8 and not options.get("fused")
    )


_RPROP = Habit(
    "Rprop keeps a step size for each value that starts at the rate and never falls below a smallest step (1e-6 by "
    "default): rate zero is no rate that it knows"
)
_ADAFACTOR = Habit(
    "Adafactor with relative_step=True (its default) works out a rate of its own from the step's number; give "
    "relative_step=False, scale_parameter=False and the rate",
    _relative_steps,
)
_LION = Habit(
    "Lion with decoupled_weight_decay=True divides the decay by the rate it was made with: at any constant rate the "
    "weights shrink by weight_decay in each step, however small the rate is; give decoupled_weight_decay=False",
    _decays_by_initial_rate,
)
_NO_EPS = Habit(
    "with eps=0 a value whose gradients were all zero is divided 0 by 0, and becomes NaN at any rate; give an eps",
    _without_eps,
)
_FP16 = Habit(
    "the weights are float16, in which its eps (1e-8 by default) is zero: a value with a small gradient is divided "
    "by zero and becomes NaN or Inf at any rate; keep float32 weights under the optimizer, or give eps=1e-4",
    _eps_underflows,
)
_DIVIDES_BY_ROOT = (
    "torch.optim.adam.Adam",
    "torch.optim.adamw.AdamW",
    "torch.optim.nadam.NAdam",
    "torch.optim.adamax.Adamax",
    "torch.optim.adagrad.Adagrad",
    "torch.optim.rmsprop.RMSprop",
    "schedulefree.adamw_schedulefree.AdamWScheduleFree",
)

HABITS: Mapping[str, tuple[Habit, ...]] = {
    "torch.optim.rprop.Rprop": (_RPROP,),
    "transformers.optimization.Adafactor": (_ADAFACTOR,),
    "lion_pytorch.lion_pytorch.Lion": (_LION,),
    **dict.fromkeys(_DIVIDES_BY_ROOT, (_NO_EPS, _FP16)),
}
"""Classes by their full name, and what moves weights at rate zero under them."""


def habit_of(observed: Observed) -> str | None:
    """Why an optimizer of the run moves weights at rate zero; None where none is known to, as it was set."""
    for name in observed.optimizers:
        for habit in HABITS.get(name, ()):
            if habit.applies(observed.options.get(name, {})):
                return habit.text
    return None


def counts_as_zero(rate: float) -> bool:
    """Whether a rate is zero once it meets float32 weights: 0 itself, and 1e-46 where 0 is refused."""
    return abs(rate) < SMALLEST_NUMBER / 2


REFUSES_ZERO: Mapping[str, str] = {
    "torch.optim.sparse_adam.SparseAdam": "Invalid learning rate: 0.0",
    "prodigyopt.prodigy.Prodigy": "Invalid learning rate: 0.0",
    "dadaptation.dadapt_adam.DAdaptAdam": "Invalid learning rate: 0.0",
    "dadaptation.dadapt_adan.DAdaptAdan": "Invalid learning rate: 0.0",
    "dadaptation.dadapt_sgd.DAdaptSGD": "Invalid learning rate: 0.0",
    "dadaptation.dadapt_adagrad.DAdaptAdaGrad": "Learning rate 0.0 must be positive",
    "lion_pytorch.lion_pytorch.Lion": "assert lr > 0.",
    "came_pytorch.CAME.CAME": "assert lr > 0.",
}
"""Classes that raise when they are made with rate zero, and the words that a traceback ends with."""

_RATE = r"(?:(?:\b|_)lr\b|learning[ _-]?rate)"
_MUST = r"(?:must|should|has to|needs?|expected|required?|requires|invalid|is not|cannot|may not|please)"
_ABOVE = r"(?:positive|(?:greater|larger|bigger|more|higher) than (?:0|zero)|above (?:0|zero)|> ?0|be (?:0|zero)\b)"
_REFUSALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"invalid (?:learning rate|lr)(?: value)?:? *0(?:\.0*)?(?![\d.e])",
        rf"assert [\w.]*{_RATE} *> *0",
        rf"{_RATE}.{{0,80}}?\b{_MUST}\b.{{0,40}}?{_ABOVE}",
        rf"\b{_MUST}\b.{{0,40}}?{_ABOVE}.{{0,40}}?{_RATE}",
        rf"{_RATE} 0\.0 must be positive",
    )
)
_OWN_RATE = "Cannot combine manual `lr` and `relative_step=True`"
_FAILS_BELOW = re.compile(r"dadapt_sgd\.py|lbfgs\.py|_strong_wolfe")


def refused_zero(lines: Sequence[str]) -> str | None:
    """Recognise in the last lines of a trainer's output that it refuses the rate 0, and say what to do.

    Knows the tracebacks of optimizers and the words of argument checkers; None where nothing of it is there.
    """
    text = "\n".join(lines)
    if _OWN_RATE in text:
        return (
            "Adafactor with relative_step=True takes no rate from outside: give it relative_step=False, "
            "scale_parameter=False and the rate"
        )
    if "ZeroDivisionError" in text and _FAILS_BELOW.search(text):
        return (
            "the optimizer divides by what the rate has made zero (DAdaptSGD, LBFGS with strong_wolfe), so that this "
            "run cannot be made with it: take another optimizer for the run at rate 0"
        )
    for line in (*lines, *(f"{first} {second}" for first, second in pairwise(lines))):
        if any(refusal.search(line) for refusal in _REFUSALS):
            return (
                f"the trainer refuses the rate 0 ({line.strip()[:160]}): give it {SMALLEST_RATE:g} in its place, "
                "which is no zero to whoever asks and is zero in float32"
            )
    return None
