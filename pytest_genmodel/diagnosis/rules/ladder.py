"""Rules of the ladder of learning rates: GM740 to GM744."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule

_INCIDENT = ("https://github.com/zai-org/CogVideo/issues/374",)

RULES = (
    Rule(
        "GM740",
        "drift does not begin at zero",
        "A run at rate zero gave other weights, or another sample, than what went in: what higher rates show is then "
        "not what training does.",
        "Judge zero_lr_identity with this trainer: it says at which place the model changed.",
        seen_in=_INCIDENT,
        example="rate    weights moved by\n0       3e-4             # should be 0\n1e-9    3e-4",
    ),
    Rule(
        "GM741",
        "weights jump as the rate leaves zero",
        "At a small rate the weights are much further away than in proportion to a higher one, or further than the "
        "optimizer's steps are long. Something moves them that is not the rate: a smallest rate, a default in its "
        "place, a cast, other weights that are saved.",
        "Look at what the trainer does only when the rate is not zero, and at the rate that the optimizer used.",
        seen_in=_INCIDENT,
        example="rate    weights moved by\n"
        "0       0\n"
        "1e-9    2e-2             # should be a hundredth of the next\n"
        "1e-7    2e-2",
    ),
    Rule(
        "GM742",
        "sample jumps as the rate leaves zero",
        "The weights moved as little as the rate says, and the sample is far away: what was saved is wired, "
        "configured or loaded in another way than what went in.",
        "Compare the configurations (same_config), and load what was written with strict=True (coverage).",
        seen_in=_INCIDENT,
        example="rate    weights moved by   sample moved by\n"
        "0       0                  0\n"
        "1e-9    5e-9               0.8",
    ),
    Rule(
        "GM743",
        "higher rate moves no further",
        "Raising the rate does not move the weights further: it is bounded, replaced or scheduled away on its way to "
        "the optimizer.",
        "Print the optimizer's own rate in each step, and look for min, clamp and warm-up.",
        example="rate    weights moved by\n"
        "1e-7    5e-7\n"
        "1e-5    5e-7             # should be a hundred times as far",
    ),
    Rule(
        "GM744",
        "no rate of the ladder moves anything",
        "Every value is what it was at the highest rate too: nothing was trained, or the weights' dtype holds no "
        "step so small.",
        "Give higher rates; then check requires_grad, the optimizer's groups, and a schedule whose first rate is 0.",
        example=">>> weight = torch.tensor(0.02, dtype=torch.bfloat16)\n"
        ">>> weight - 1e-9 == weight\n"
        "tensor(True)",
    ),
)
