"""What optimizers, and what training loops do around them, make of weights at learning rate zero.

The one source of docs/optimizers.md (`python -m tools.optimizers_page`); tests/training/test_optimizers.py and
test_optimizer_loops.py measure every row of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pytest_genmodel.training.habits import HABITS


class Effect(str, Enum):
    """What three steps do to the bits of the weights."""

    IDENTITY = "identity"
    MOVES = "moves"
    NAN = "NaN"
    REFUSES = "refuses"
    FAILS = "fails"


IDENTITY, MOVES, NAN, REFUSES, FAILS = Effect


@dataclass(frozen=True)
class Row:
    """An optimizer as it is set: what it does at rate 0 and at 1e-46, and why.

    `options` go to the constructor; `{"lr": None}` stands in place of either rate. `takes` says what it is given:
    all weights, `matrices`, or matrices with `sparse` gradients.
    """

    name: str
    at_zero: Effect
    at_smallest: Effect | None
    why: str
    options: Mapping[str, Any] = field(default_factory=dict)
    takes: str = "all"
    dtype: str = "float32"

    @property
    def package(self) -> str:
        """The distribution that has it."""
        return {"lion_pytorch": "lion-pytorch", "came_pytorch": "came-pytorch"}.get(
            self.name.partition(".")[0], self.name.partition(".")[0]
        )

    @property
    def call(self) -> str:
        """How it is made, without weights and rate: `AdamW(eps=0.0)`."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.name.rpartition('.')[2]}({options})"


@dataclass(frozen=True)
class Practice:
    """What a loop does around the optimizer, at rate 0; `key` names its measurement in the tests."""

    key: str
    what: str
    effect: Effect
    why: str


NOT_IN_DEV = {"bitsandbytes": "0.50.2", "came-pytorch": "0.1.3"}
"""Measured with these versions and not installed for the tests: their rows are measured where they are there."""

_SCALED = "the step, and the decay of the weights, are multiplied by the rate"
_COUPLED = "the decay is added to the gradient, and the step is multiplied by the rate"
_SAME = "another kernel for the same step"
_MOMENTS = "the moments grow and the step is multiplied by the rate"
_ASKS = "its constructor asks for a rate above 0"
_DISTANCE = (
    "its constructor asks for a rate above 0; the distance that it estimates is multiplied by the rate"
)
_FP16 = "its eps is zero in float16: a value with a small gradient is divided by zero"
_EIGHT = "what is rounded to 8 bits is the moments, not the weights"


def _torch(name: str, at_zero: Effect, at_smallest: Effect | None, why: str, **more: Any) -> Row:
    return Row(f"torch.optim.{name}", at_zero, at_smallest, why, **more)


def _still(name: str, why: str, **options: Any) -> Row:
    return Row(name, IDENTITY, IDENTITY, why, options)


ROWS: tuple[Row, ...] = (
    _still("torch.optim.SGD", _SCALED),
    _still("torch.optim.SGD", _COUPLED, momentum=0.9, nesterov=True, weight_decay=0.01),
    _still("torch.optim.SGD", "only the sign of the step is another", maximize=True),
    _still("torch.optim.SGD", _SAME, momentum=0.9, foreach=True),
    _still("torch.optim.SGD", _SAME, momentum=0.9, fused=True),
    _still("torch.optim.Adam", _MOMENTS),
    _still("torch.optim.Adam", _COUPLED, weight_decay=0.01),
    _still("torch.optim.Adam", _SCALED, weight_decay=0.01, decoupled_weight_decay=True),
    _still("torch.optim.Adam", _MOMENTS, amsgrad=True),
    _still("torch.optim.AdamW", _SCALED, weight_decay=0.01),
    _still("torch.optim.AdamW", _MOMENTS, weight_decay=0.0),
    _still("torch.optim.AdamW", "only the sign of the step is another", maximize=True),
    _still("torch.optim.AdamW", _SAME, foreach=True),
    _still("torch.optim.AdamW", _SAME, fused=True),
    _torch("AdamW", NAN, NAN, "a value whose gradients were all 0 is divided 0 by 0", options={"eps": 0.0}),
    _torch(
        "AdamW",
        FAILS,
        FAILS,
        "works on an accelerator only (RuntimeError, AssertionError)",
        options={"capturable": True},
    ),
    _torch("AdamW", IDENTITY, IDENTITY, "the step is 0 in bfloat16 as well", dtype="bfloat16"),
    _torch("AdamW", NAN, NAN, _FP16, dtype="float16"),
    _torch(
        "AdamW", IDENTITY, IDENTITY, "an eps that float16 can hold", options={"eps": 1e-4}, dtype="float16"
    ),
    _torch("AdamW", IDENTITY, IDENTITY, "reckons in float32", options={"fused": True}, dtype="float16"),
    _torch("Adam", NAN, NAN, _FP16, dtype="float16"),
    _torch("NAdam", NAN, NAN, _FP16, dtype="float16"),
    _torch("Adamax", NAN, NAN, _FP16, dtype="float16"),
    _torch("Adagrad", NAN, NAN, _FP16, dtype="float16"),
    _torch("RMSprop", NAN, NAN, _FP16, dtype="float16"),
    _still("torch.optim.Adamax", _COUPLED, weight_decay=0.01),
    _still("torch.optim.NAdam", _COUPLED, weight_decay=0.01),
    _still("torch.optim.NAdam", _SCALED, weight_decay=0.01, decoupled_weight_decay=True),
    _still("torch.optim.RAdam", _COUPLED, weight_decay=0.01),
    _still("torch.optim.RAdam", _SCALED, weight_decay=0.01, decoupled_weight_decay=True),
    _still("torch.optim.RMSprop", _COUPLED, momentum=0.9, centered=True, weight_decay=0.01),
    _still("torch.optim.Adadelta", _COUPLED, weight_decay=0.01),
    _still("torch.optim.Adagrad", _COUPLED, weight_decay=0.01),
    _still("torch.optim.ASGD", "its decays are multiplied by the rate too", weight_decay=0.01, t0=0),
    _still(
        "torch.optim.Adafactor",
        "the size of the weights multiplies the rate; it does not stand in for it",
        weight_decay=0.01,
    ),
    _torch("Muon", IDENTITY, IDENTITY, _SCALED, options={"weight_decay": 0.1}, takes="matrices"),
    _torch(
        "SparseAdam",
        REFUSES,
        IDENTITY,
        _ASKS,
        takes="sparse",
    ),
    _still("torch.optim.LBFGS", "the step along the found direction is multiplied by the rate"),
    _torch(
        "LBFGS",
        FAILS,
        IDENTITY,
        "its line search divides by the length of a step that is 0 (ZeroDivisionError)",
        options={"line_search_fn": "strong_wolfe"},
    ),
    _torch("Rprop", MOVES, MOVES, HABITS["torch.optim.rprop.Rprop"][0].text),
    _torch("Rprop", IDENTITY, IDENTITY, "no smallest step", options={"step_sizes": (0.0, 50)}),
    Row(
        "transformers.optimization.Adafactor",
        MOVES,
        None,
        HABITS["transformers.optimization.Adafactor"][0].text,
        {"lr": None},
    ),
    Row(
        "transformers.optimization.Adafactor",
        MOVES,
        None,
        "the rate is 1e-6 times the step's number while it warms up",
        {"lr": None, "warmup_init": True},
    ),
    Row("transformers.optimization.Adafactor", REFUSES, REFUSES, "relative_step=True takes no rate"),
    _still(
        "transformers.optimization.Adafactor",
        "the size of the weights multiplies the rate; it does not stand in for it",
        relative_step=False,
        scale_parameter=True,
    ),
    _still(
        "transformers.optimization.Adafactor",
        _SCALED,
        relative_step=False,
        scale_parameter=False,
        weight_decay=0.01,
    ),
    Row("prodigyopt.Prodigy", REFUSES, IDENTITY, _DISTANCE),
    Row("prodigyopt.Prodigy", REFUSES, IDENTITY, _DISTANCE, {"weight_decay": 0.01, "decouple": False}),
    Row(
        "prodigyopt.Prodigy",
        REFUSES,
        IDENTITY,
        _DISTANCE,
        {"weight_decay": 0.01, "use_bias_correction": True, "safeguard_warmup": True},
    ),
    Row("dadaptation.DAdaptAdam", REFUSES, IDENTITY, _DISTANCE, {"weight_decay": 0.01, "decouple": True}),
    Row("dadaptation.DAdaptAdan", REFUSES, IDENTITY, _DISTANCE),
    Row("dadaptation.DAdaptAdaGrad", REFUSES, IDENTITY, _DISTANCE),
    Row(
        "dadaptation.DAdaptSGD",
        REFUSES,
        FAILS,
        "and divides by a square that a tiny rate makes 0 (ZeroDivisionError)",
    ),
    _still("dadaptation.DAdaptLion", "takes 0; the distance that it estimates is multiplied by the rate"),
    _still(
        "schedulefree.AdamWScheduleFree",
        "the averages that train() and eval() swap are all equal while nothing moves",
        weight_decay=0.01,
        warmup_steps=2,
    ),
    _still("schedulefree.AdamWScheduleFree", _SAME, foreach=False),
    _still("schedulefree.SGDScheduleFree", "as AdamWScheduleFree", weight_decay=0.01),
    _still("schedulefree.RAdamScheduleFree", "as AdamWScheduleFree"),
    Row("lion_pytorch.Lion", REFUSES, IDENTITY, _ASKS),
    Row("lion_pytorch.Lion", REFUSES, IDENTITY, _ASKS, {"weight_decay": 0.01}),
    Row(
        "lion_pytorch.Lion",
        REFUSES,
        MOVES,
        HABITS["lion_pytorch.lion_pytorch.Lion"][0].text,
        {"weight_decay": 0.01, "decoupled_weight_decay": True},
    ),
    Row("came_pytorch.CAME", REFUSES, IDENTITY, _ASKS, {"weight_decay": 0.01}),
    _still("bitsandbytes.optim.AdamW", _SCALED),
    _still("bitsandbytes.optim.AdamW8bit", _EIGHT, min_8bit_size=1),
    _still("bitsandbytes.optim.Adam8bit", _EIGHT, min_8bit_size=1),
    _still("bitsandbytes.optim.PagedAdamW8bit", _EIGHT, min_8bit_size=1),
    _still("bitsandbytes.optim.Lion8bit", "takes 0, unlike lion-pytorch's", min_8bit_size=1),
    _still("bitsandbytes.optim.AdEMAMix8bit", _EIGHT, min_8bit_size=1),
    _still("bitsandbytes.optim.SGD8bit", _EIGHT, momentum=0.9, min_8bit_size=1),
    _still("bitsandbytes.optim.RMSprop8bit", _EIGHT, min_8bit_size=1),
    _still("bitsandbytes.optim.LAMB", "the trust ratio multiplies the rate"),
    _still("bitsandbytes.optim.LARS", "the trust ratio multiplies the rate", momentum=0.9),
)

PRACTICES: tuple[Practice, ...] = (
    Practice("clipped", "`clip_grad_norm_`", IDENTITY, "only gradients are scaled"),
    Practice("infinite_gradient", "a gradient that is Inf, not skipped", NAN, "0 x Inf is NaN"),
    Practice(
        "clipped_nan",
        "a gradient that is NaN, clipped",
        NAN,
        "the norm is NaN, and spreads it to every gradient",
    ),
    Practice(
        "scaler", "`GradScaler`, finite gradients", IDENTITY, "what is scaled is scaled back: a power of two"
    ),
    Practice(
        "scaler_skips",
        "`GradScaler`, a gradient that is Inf in every step",
        IDENTITY,
        "the optimizer's step is never called; at a positive rate nothing is learned either (GM706, GM709)",
    ),
    Practice(
        "warmup", "a schedule that starts at 0, one step at 1e-3", IDENTITY, "the first rate is 0 (GM706)"
    ),
    Practice(
        "negative_zero",
        "weights that are -0.0",
        MOVES,
        "-0.0 + 0.0 is +0.0: other bits, the same number; no finding",
    ),
    Practice(
        "master_of_bfloat16",
        "bfloat16 weights, a float32 master copied back",
        IDENTITY,
        "every bfloat16 number is a float32 number",
    ),
    Practice(
        "bfloat16_of_master",
        "float32 weights, trained and saved as their bfloat16 copy",
        MOVES,
        "16 bits of each number are rounded away (GM703, GM713)",
    ),
    Practice(
        "stochastic_rounding",
        "bfloat16 weights, sums rounded up or down by chance",
        IDENTITY,
        "a sum that bfloat16 holds exactly has nothing to round",
    ),
    Practice(
        "stochastic_rounding_of_master",
        "a float32 master rounded to bfloat16 by chance",
        MOVES,
        "each copy is rounded anew: two copies of one master differ",
    ),
    Practice(
        "ema_diffusers", "diffusers `EMAModel`", IDENTITY, "subtracts a share of the difference, which is 0"
    ),
    Practice("ema_lerp", "an EMA by `lerp_`", IDENTITY, "adds a share of the difference, which is 0"),
    Practice(
        "ema_two_products",
        "an EMA as `decay * ema + (1 - decay) * weight`",
        MOVES,
        "two products are rounded, and their sum: up to 6e-7 in five steps",
    ),
    Practice("swa", "torch `AveragedModel`", IDENTITY, "adds a share of the difference, which is 0"),
    Practice(
        "swa_ema",
        "torch `AveragedModel(multi_avg_fn=get_ema_multi_avg_fn(...))`",
        IDENTITY,
        "an EMA by `lerp_`",
    ),
    Practice(
        "swa_two_products",
        "torch `AveragedModel(avg_fn=...)` with the two products",
        MOVES,
        "as the EMA of two products",
    ),
    Practice(
        "schedule_free_unswapped",
        "schedule-free, saved without `eval()`, at 1e-3",
        MOVES,
        "in train mode the weights in memory are not those that are meant: save after `eval()` "
        "(at rate 0 both are the same, so that zero_lr_identity cannot see it)",
    ),
)
