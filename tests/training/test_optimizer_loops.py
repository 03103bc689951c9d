"""What loops do around the optimizer, measured at rate 0: every row of the last table of docs/optimizers.md."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.training.recorded import Recorded, all_finite, same_bits, take_steps
from tools.optimizer_table import PRACTICES, Effect, Practice

Pairs = list[tuple[torch.Tensor, torch.Tensor]]
DECAYS = (0.9, 0.999, 0.9999)
EMA_STEPS = 5


def trained(
    recorded: Recorded,
    *,
    lr: float = 0.0,
    before_step: Callable[[list[torch.nn.Parameter]], object] = lambda _: None,
    scaler: torch.amp.GradScaler | None = None,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    steps: int = 3,
) -> Pairs:
    """AdamW on the recorded gradients, with what a loop does before each step."""
    parameters, _ = recorded.parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    scheduler = schedule(optimizer) if schedule else None
    for gradients in recorded.gradients[:steps]:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient * (float(scaler.get_scale()) if scaler else 1.0)
        before_step(parameters)
        if scaler:
            scaler.scale(torch.zeros(()))  # as a loop does with its loss: the scale begins to exist
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        if scheduler:
            scheduler.step()
    return list(zip(before, (parameter.detach() for parameter in parameters), strict=True))


def clipped(recorded):
    return trained(recorded, before_step=lambda ps: torch.nn.utils.clip_grad_norm_(ps, 1e-6))


def _spoil(value: float) -> Callable[[list[torch.nn.Parameter]], None]:
    def spoil(parameters: list[torch.nn.Parameter]) -> None:
        parameters[0].grad[0] = value

    return spoil


def infinite_gradient(recorded):
    return trained(recorded, before_step=_spoil(float("inf")))


def clipped_nan(recorded):
    def spoil_and_clip(parameters):
        _spoil(float("nan"))(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)

    pairs = trained(recorded, before_step=spoil_and_clip)
    assert all(bool(after.isnan().any()) for _, after in pairs)  # every tensor, not the first alone
    return pairs


def scaler(recorded):
    return trained(recorded, scaler=torch.amp.GradScaler("cpu"))


def scaler_skips(recorded):
    def with_inf(lr):
        return trained(recorded, lr=lr, scaler=torch.amp.GradScaler("cpu"), before_step=_spoil(float("inf")))

    assert same_bits(with_inf(1e-3))
    return with_inf(0.0)


def warmup(recorded):
    def schedule(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)

    assert not same_bits(trained(recorded, lr=1e-3, schedule=schedule, steps=2))
    return trained(recorded, lr=1e-3, schedule=schedule, steps=1)


def negative_zero(recorded):
    weights = tuple(torch.full_like(weight, -0.0) for weight in recorded.weights)
    pairs = trained(Recorded(weights, recorded.gradients))
    assert all(torch.equal(a, b) for a, b in pairs)  # the same numbers
    return pairs


def _bfloat16(recorded: Recorded) -> Recorded:
    """Weights that bfloat16 holds exactly, in float32."""
    return Recorded(tuple(w.bfloat16().float() for w in recorded.weights), recorded.gradients)


def master_of_bfloat16(recorded):
    pairs = trained(_bfloat16(recorded))
    return [(before.bfloat16(), after.bfloat16()) for before, after in pairs]


def bfloat16_of_master(recorded):
    return [(before, after.bfloat16().float()) for before, after in trained(recorded)]


def _rounded_by_chance(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randint(0, 1 << 16, tensor.shape, dtype=torch.int32, generator=generator)
    return (tensor.contiguous().view(torch.int32) + noise).bitwise_and(-65536).view(torch.float32)


def stochastic_rounding(recorded):
    generator = torch.Generator().manual_seed(0)
    return [(before, _rounded_by_chance(after, generator)) for before, after in trained(_bfloat16(recorded))]


def stochastic_rounding_of_master(recorded):
    generator = torch.Generator().manual_seed(0)
    return [
        (_rounded_by_chance(before, generator), _rounded_by_chance(after, generator))
        for before, after in trained(recorded)
    ]


def averaged(
    recorded: Recorded, update: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
) -> Pairs:
    """An average that begins as the weights, and follows weights that never move."""
    pairs = []
    for decay in DECAYS:
        for weight in recorded.weights:
            average = weight.clone()
            for _ in range(EMA_STEPS):
                average = update(average, weight, decay)
            pairs.append((weight, average))
    return pairs


def ema_diffusers(recorded):
    from diffusers.training_utils import EMAModel

    pairs = []
    for decay in DECAYS:
        for options in ({}, {"foreach": True}, {"use_ema_warmup": True}):
            parameters, _ = recorded.parameters()
            ema = EMAModel(parameters, decay=decay, **options)
            for _ in range(EMA_STEPS):
                ema.step(parameters)
            pairs += zip((p.detach() for p in parameters), ema.shadow_params, strict=True)
    return pairs


def ema_lerp(recorded):
    return averaged(recorded, lambda average, weight, decay: average.lerp_(weight, 1 - decay))


def ema_two_products(recorded):
    pairs = averaged(recorded, lambda average, weight, decay: decay * average + (1 - decay) * weight)
    assert max(float((a - b).abs().max()) for a, b in pairs) < 1e-6
    assert not same_bits(
        averaged(recorded, lambda average, weight, decay: average.mul_(decay).add_(weight, alpha=1 - decay))
    )
    return pairs


def _averaged_model(recorded: Recorded, **options) -> Pairs:
    parameters, _ = recorded.parameters()
    model = torch.nn.Module()
    for number, parameter in enumerate(parameters):
        model.register_parameter(f"p{number}", parameter)
    average = torch.optim.swa_utils.AveragedModel(model, **options)
    for _ in range(EMA_STEPS):
        average.update_parameters(model)
    return [
        (a.detach(), b.detach()) for a, b in zip(model.parameters(), average.module.parameters(), strict=True)
    ]


def swa(recorded):
    return _averaged_model(recorded)


def swa_ema(recorded):
    return _averaged_model(recorded, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))


def swa_two_products(recorded):
    return _averaged_model(recorded, avg_fn=lambda average, weight, _: 0.999 * average + 0.001 * weight)


def schedule_free_unswapped(recorded):
    """The same run saved twice: as it lies in memory, and after eval()."""
    from schedulefree import AdamWScheduleFree

    class Unswapped(AdamWScheduleFree):
        def eval(self):
            pass

    def last(optimizer_class, lr):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("schedulefree.AdamWScheduleFree", optimizer_class)
            return take_steps(recorded, "schedulefree.AdamWScheduleFree", {}, lr=lr)

    assert same_bits(
        [(a, b) for (_, a), (_, b) in zip(last(Unswapped, 0.0), last(AdamWScheduleFree, 0.0), strict=True)]
    )
    in_memory, meant = last(Unswapped, 1e-3), last(AdamWScheduleFree, 1e-3)
    return [(a, b) for (_, a), (_, b) in zip(meant, in_memory, strict=True)]


@pytest.mark.parametrize("practice", PRACTICES, ids=lambda practice: practice.key)
def test_practice_is_what_is_measured(recorded, practice: Practice):
    pairs = globals()[practice.key](recorded)

    effect = Effect.IDENTITY if same_bits(pairs) else Effect.MOVES if all_finite(pairs) else Effect.NAN
    assert effect is practice.effect


@pytest.mark.parametrize(("dtype", "least", "most"), [("float32", 0.97, 1.0), ("bfloat16", 0.005, 0.2)])
def test_share_of_values_that_one_step_at_1e_5_moves(recorded, dtype, least, most):
    """Pure bfloat16 weights hardly learn at small rates: most steps are smaller than half their last bit."""
    first = Recorded(recorded.weights[:-1], tuple(step[:-1] for step in recorded.gradients[:1]))
    pairs = take_steps(first, "torch.optim.AdamW", {}, lr=1e-5, dtype=dtype)

    moved = sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
    assert least < moved <= most
