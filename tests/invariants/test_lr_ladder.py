"""lr_ladder, with the built-in trainers and with trainers whose drift does not follow the rate."""

from __future__ import annotations

import pytest
import torch
from lion_pytorch import Lion

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.training.full import train_full
from pytest_genmodel.training.lora import train_lora
from tests.editing import TRANSFORMER, VAE, edit_json, edit_tensors

RATES = (0.0, 1e-9, 1e-7, 1e-5)
SHORT = (0.0, 1e-9, 1e-5)
ADAMW = torch.optim.AdamW


def found(verdict):
    return [(finding.code, finding.component, finding.location) for finding in verdict.findings]


def rows(verdict):
    return verdict.measurements["ladder"]


@pytest.fixture
def climbed(judged, healthy):
    """Judge the ladder of a trainer that does `change(output, lr)` after a run at `rate(lr)`."""

    def climb(
        change=lambda output, lr: None, rate=lambda lr: lr, train=train_full, candidate=healthy, **parameters
    ):
        def trainer(reference, *, lr, steps, seed, output):
            train(reference, lr=rate(lr), steps=steps, seed=seed, output=output)
            change(output, lr)
            return output

        return judged("lr_ladder", candidate, parameters={"rates": SHORT, "trainer": trainer, **parameters})

    return climb


@pytest.mark.parametrize("trainer", ["full", "lora"])
def test_ladder_holds_and_is_measured(judged, healthy, trainer):
    verdict = judged("lr_ladder", healthy, parameters={"trainer": trainer})

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert [row["rate"] for row in rows(verdict)] == list(RATES)
    assert [row["used_rate"] for row in rows(verdict)] == list(RATES)
    zero, *_, top = rows(verdict)
    assert (zero["step"], zero["weights"], zero["moved"], zero["latents"], zero["frames"]) == (
        0.0,
        0.0,
        0,
        0.0,
        0.0,
    )
    assert top["step"] == pytest.approx(1e-5, rel=0.05)  # Adam's first step
    assert 1e-6 < top["latents"] < 1e-3
    assert set(top["components"]) == {"transformer" if trainer == "full" else "adapter"}
    assert rows(verdict)[2]["weights"] == pytest.approx(top["weights"] / 100, rel=0.05)


def test_weights_that_the_dtype_cannot_move_are_no_fault_and_are_told(judged, healthy):
    verdict = judged("lr_ladder", healthy, parameters={"trainer": "full"})

    assert list(verdict.measurements["coarse"]) == ["1e-09"]
    assert 0.1 < verdict.measurements["coarse"]["1e-09"] < 0.3


def in_bfloat16(output, lr):
    edit_tensors(output / TRANSFORMER, lambda tensors: {n: t.bfloat16() for n, t in tensors.items()})


def test_bfloat16_weights_are_no_false_alarm(climbed, copy):
    """A step is not taken at all, or is a whole spacing."""
    in_bfloat16(copy, 0.0)

    verdict = climbed(in_bfloat16, candidate=copy)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert set(verdict.measurements["coarse"]) == {"1e-09"}


def test_bfloat16_weights_rounded_by_chance_are_no_false_alarm(climbed, copy):
    in_bfloat16(copy, 0.0)
    generator = torch.Generator().manual_seed(0)

    def by_chance(tensor):
        noise = torch.randint(0, 1 << 16, tensor.shape, dtype=torch.int32, generator=generator)
        return (
            (tensor.float().contiguous().view(torch.int32) + noise)
            .bitwise_and(-65536)
            .view(torch.float32)
            .bfloat16()
        )

    def change(output, lr):
        edit_tensors(output / TRANSFORMER, lambda tensors: {n: by_chance(t) for n, t in tensors.items()})

    verdict = climbed(change, candidate=copy, rates=(0, 1e-7, 1e-6, 1e-5))

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    low, high = rows(verdict)[1]["step"], rows(verdict)[3]["step"]
    assert 0.05 < low / high < 0.2  # grows with the root of the rate


def test_bfloat16_weights_at_rates_that_move_nothing_cannot_be_judged(climbed, copy):
    in_bfloat16(copy, 0.0)
    edit_tensors(
        copy / TRANSFORMER, lambda ts: {n: t.sign() * t.abs().clamp_min(1e-2) for n, t in ts.items()}
    )

    verdict = climbed(in_bfloat16, candidate=copy, rates=(0, 1e-9, 1e-8))

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "bfloat16" in verdict.reason
    assert "give higher rates" in verdict.reason


def test_save_in_bfloat16_at_any_rate_but_zero_is_a_jump(climbed):
    [finding] = climbed(lambda output, lr: in_bfloat16(output, lr) if lr else None).findings

    assert (finding.code, finding.component, finding.location) == ("GM741", "transformer", "rate 1e-09")
    assert "between the rates 0 and 1e-09" in finding.message
    assert "bfloat16" in finding.cause


def test_save_in_bfloat16_at_zero_too_does_not_begin_at_zero(climbed):
    assert found(climbed(in_bfloat16)) == [("GM740", "transformer", "rate 0")]


def scaled(factor):
    def change(output, lr):
        if lr:
            edit_tensors(output / TRANSFORMER, lambda tensors: {n: t * factor for n, t in tensors.items()})

    return change


@pytest.mark.parametrize("factor", [1.0 + 1e-5, 1.001, 2.0])
def test_scale_at_any_rate_but_zero_is_a_jump(climbed, factor):
    [finding] = climbed(scaled(factor)).findings

    assert (finding.code, finding.location) == ("GM741", "rate 1e-09")
    assert "what was written is not what was trained" in finding.cause


def test_scale_is_a_jump_in_bfloat16_weights_too(climbed, copy):
    in_bfloat16(copy, 0.0)

    def change(output, lr):
        scaled(1.01)(output, lr)
        in_bfloat16(output, lr)

    assert found(climbed(change, candidate=copy)) == [("GM741", "transformer", "rate 1e-09")]


def test_scale_of_an_adapter_is_a_jump(climbed):
    def change(output, lr):
        def add(tensors):
            return {name: t + 1e-3 if "lora_B" in name else t for name, t in tensors.items()}

        if lr:
            edit_tensors(output / "pytorch_lora_weights.safetensors", add)

    assert found(climbed(change, train=train_lora)) == [("GM741", "adapter", "rate 1e-09")]


def test_change_of_another_component_is_a_jump_there(climbed):
    def change(output, lr):
        if lr:
            edit_tensors(output / VAE, lambda tensors: {n: t + 1e-3 for n, t in tensors.items()})

    assert found(climbed(change)) == [("GM741", "vae", "rate 1e-09")]


def test_rate_that_is_ignored_does_not_begin_at_zero(climbed):
    [finding] = climbed(rate=lambda lr: 1e-4).findings

    assert (finding.code, finding.location) == ("GM740", "rate 0")
    assert "used the rate 0.0001 where 0 was asked for" in finding.cause


def test_default_in_place_of_zero_does_not_begin_at_zero(climbed):
    assert found(climbed(rate=lambda lr: lr or 1e-4)) == [("GM740", "transformer", "rate 0")]


def test_rate_that_is_ignored_where_it_is_not_zero_is_a_jump(climbed):
    [finding] = climbed(rate=lambda lr: 1e-4 if lr else 0.0).findings

    assert (finding.code, finding.location) == ("GM741", "rate 1e-09")
    assert "used the rate 0.0001 where 1e-09 was asked for" in finding.cause


def test_smallest_rate_is_caught_with_and_without_zero(climbed):
    [at_zero] = climbed(rate=lambda lr: max(lr, 1e-6)).findings
    [above] = climbed(rate=lambda lr: max(lr, 1e-6) if lr else 0.0).findings

    assert (at_zero.code, at_zero.location) == ("GM740", "rate 0")
    assert (above.code, above.location) == ("GM741", "rate 1e-09")
    assert "1e-06 where 1e-09 was asked for" in above.cause


@pytest.mark.parametrize("written", ["as it was", "in float32"])
def test_smallest_rate_is_caught_in_bfloat16_weights_too(climbed, copy, written):
    in_bfloat16(copy, 0.0)
    change = in_bfloat16 if written == "as it was" else lambda output, lr: None

    [finding] = climbed(
        change, rate=lambda lr: max(lr, 1e-6) if lr else 0.0, candidate=copy, rates=RATES
    ).findings

    assert (finding.code, finding.location) == ("GM741", "rate 1e-09")
    assert "1e-06 where 1e-09 was asked for" in finding.cause


def test_largest_rate_is_caught(climbed):
    [finding] = climbed(rate=lambda lr: min(lr, 1e-8), rates=RATES).findings

    assert (finding.code, finding.location) == ("GM743", "rate 1e-05")
    assert "1e-08 where 1e-05 was asked for" in finding.cause


def test_largest_rate_at_the_first_step_of_the_ladder_is_caught(climbed):
    [finding] = climbed(rate=lambda lr: min(lr, 1e-9)).findings

    assert (finding.code, finding.location) == ("GM743", "rate 1e-05")


def test_higher_rate_that_moves_less_is_caught(climbed):
    verdict = climbed(rate=lambda lr: {1e-7: 1e-5, 1e-5: 1e-7}.get(lr, lr), rates=RATES)

    assert ("GM743", "transformer", "rate 1e-05") in found(verdict)


def test_highest_rate_that_moves_nothing_is_caught(climbed):
    [finding] = climbed(rate=lambda lr: 0.0).findings

    assert (finding.code, finding.location) == ("GM744", "rate 1e-05")
    assert "0 in every step" in finding.cause


def test_steps_longer_than_the_rate_are_caught_though_they_grow_with_it(climbed, healthy):
    from safetensors.torch import load_file

    before = load_file(healthy / TRANSFORMER)

    def change(output, lr):
        def away(tensors):
            return {n: before[n] + (t.double() - before[n].double()) * 1e3 for n, t in tensors.items()}

        edit_tensors(output / TRANSFORMER, lambda ts: {n: t.to(before[n].dtype) for n, t in away(ts).items()})

    [finding] = climbed(change, rates=(0, 1e-7, 1e-6, 1e-5)).findings

    assert (finding.code, finding.location) == ("GM741", "rate 1e-07")
    assert "AdamW" in finding.cause


@pytest.mark.parametrize(
    ("file", "edit", "words", "code"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "are NaN or Inf", "GM401"),
        ("vae/config.json", {"scaling_factor": 0.6}, "differ by 0.", "GM40"),
    ],
)
def test_wiring_that_changes_at_any_rate_but_zero_is_a_jump_of_the_sample(climbed, file, edit, words, code):
    def change(output, lr):
        if lr:
            edit_json(output / file, **edit)

    [finding] = climbed(change).findings

    assert (finding.code, finding.component, finding.location) == ("GM742", None, "rate 1e-09")
    assert f"the latents of the sample {words}" in finding.message
    assert code in finding.cause


def test_wiring_that_changes_at_zero_too_does_not_begin_at_zero(climbed):
    def change(output, lr):
        edit_json(output / "scheduler/scheduler_config.json", prediction_type="epsilon")

    assert found(climbed(change)) == [("GM740", None, "rate 0")]


def test_optimizer_with_a_smallest_step_is_named(judged, healthy, monkeypatch):
    from torch.optim import Rprop

    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, *, lr, **_: Rprop(parameters, lr=lr))

    [finding] = judged("lr_ladder", healthy, parameters={"trainer": "full"}).findings

    assert finding.code == "GM740"
    assert "Rprop" in finding.cause


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.SGD, {}),
        (torch.optim.Adagrad, {}),
        (torch.optim.Adafactor, {}),
        (ADAMW, {"weight_decay": 0.1}),
        (Lion, {}),
    ],
    ids=["SGD", "Adagrad", "Adafactor", "AdamW-decay", "Lion"],
)
def test_other_optimizers_are_no_false_alarm(judged, healthy, monkeypatch, make, options):
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda parameters, *, lr, **_: make(parameters, lr=lr, **options)
    )
    zero = 1e-46 if make is Lion else 0.0

    parameters = {"rates": (zero, 1e-9, 1e-6, 1e-3), "trainer": "full"}
    verdict = judged("lr_ladder", healthy, parameters=parameters)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


@pytest.mark.parametrize("trainer", ["full", "lora"])
def test_high_rates_and_several_steps_are_no_false_alarm(judged, healthy, trainer):
    parameters = {"rates": (0, 1e-12, 1e-6, 1e-4, 1e-2), "steps": 3, "trainer": trainer}

    verdict = judged("lr_ladder", healthy, parameters=parameters)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_explosion_is_caught(judged, healthy, monkeypatch):
    from pytest_genmodel.pipelines.families.cogvideox import CogVideoX

    def trainer(reference, *, lr, steps, seed, output):
        with monkeypatch.context() as patch:
            if lr > 1e-8:
                loss = CogVideoX.training_loss
                patch.setattr(CogVideoX, "training_loss", lambda *a, **k: loss(*a, **k) * float("nan"))
            return train_full(reference, lr=lr, steps=steps, seed=seed, output=output)

    verdict = judged("lr_ladder", healthy, parameters={"trainer": trainer})

    assert found(verdict)[-1] == ("GM708", None, "rate 1e-07")


def test_trainer_that_writes_nothing_ends_the_ladder(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        if not lr:
            train_full(reference, lr=lr, steps=steps, seed=seed, output=output)

    verdict = judged("lr_ladder", healthy, parameters={"trainer": trainer})

    assert "GM710" in [code for code, *_ in found(verdict)]
    assert len(rows(verdict)) == 1


@pytest.mark.parametrize(
    "rates", [(0, 1e-9), (1e-9, 1e-7, 1e-5), (0, 1e-7, 1e-9), (0, 1e-9, float("inf")), "0,1", 0.1]
)
def test_wrong_rates_are_refused_in_one_line(judged, healthy, rates):
    with pytest.raises(BadInputError, match=r"^at least 3 rates, rising from 0, as 0,1e-9,1e-7,1e-5$"):
        judged("lr_ladder", healthy, parameters={"rates": rates})


def test_work_files_of_a_rung_are_gone_before_the_next_begins(judged, healthy):
    outputs = []

    def trainer(reference, *, lr, steps, seed, output):
        assert not any(earlier.exists() for earlier in outputs)
        outputs.append(output)
        train_full(reference, lr=lr, steps=steps, seed=seed, output=output)

    assert judged("lr_ladder", healthy, parameters={"trainer": trainer}).outcome is Outcome.PASSED
    assert len(outputs) == len(RATES)
