"""zero_lr_identity and learning_moves, with the built-in trainers and with trainers that are broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.faults.adapter_wrapped import adapter_wrapped
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.training.full import train_full
from pytest_genmodel.training.lora import train_lora
from tests.editing import TO_Q, TRANSFORMER, edit_tensors


def codes(verdict):
    return [finding.code for finding in verdict.findings]


@pytest.mark.parametrize("trainer", ["full", "lora"])
def test_zero_lr_identity_holds_and_proves_the_rate(judged, healthy, trainer):
    verdict = judged("zero_lr_identity", healthy, parameters={"trainer": trainer})

    assert (verdict.outcome, codes(verdict)) == (Outcome.PASSED, [])
    assert verdict.measurements["steps"] == 2
    assert verdict.measurements["largest_rate"] == 0.0


@pytest.mark.parametrize("trainer", ["full", "lora"])
def test_zero_lr_identity_holds_for_the_sample_too(judged, healthy, trainer):
    verdict = judged(
        "zero_lr_identity", healthy, parameters={"trainer": trainer}, level="full", steps=2, frames=9
    )

    assert (verdict.outcome, codes(verdict)) == (Outcome.PASSED, [])


@pytest.mark.parametrize("trainer", ["full", "lora"])
def test_learning_moves_holds(judged, healthy, trainer):
    verdict = judged("learning_moves", healthy, parameters={"trainer": trainer})

    assert (verdict.outcome, codes(verdict)) == (Outcome.PASSED, [])
    assert verdict.measurements["moved"] > 0


def test_rate_that_falls_back_to_a_default_is_caught(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        return train_full(reference, lr=lr or 1e-4, steps=steps, seed=seed, output=output)

    verdict = judged("zero_lr_identity", healthy, parameters={"trainer": trainer})

    assert codes(verdict)[:2] == ["GM701", "GM702"]
    assert "0.0001" in verdict.findings[0].message
    assert verdict.findings[0].location == "step 1"


def test_optimizer_that_moves_at_rate_zero_is_caught(judged, healthy, monkeypatch):
    from torch.optim import Rprop

    def rprop(parameters, *, lr, **_):
        return Rprop(parameters, lr=lr)

    monkeypatch.setattr(torch.optim, "AdamW", rprop)

    verdict = judged("zero_lr_identity", healthy, parameters={"trainer": "full"})

    assert codes(verdict) == ["GM702"]
    assert "Rprop" in verdict.findings[0].cause


def test_gradients_that_are_no_numbers_are_caught_at_rate_zero(judged, healthy, monkeypatch):
    from pytest_genmodel.pipelines.families.cogvideox import CogVideoX

    loss = CogVideoX.training_loss
    monkeypatch.setattr(CogVideoX, "training_loss", lambda *a, **k: loss(*a, **k) * float("inf"))

    verdict = judged("zero_lr_identity", healthy, parameters={"trainer": "full"})

    assert codes(verdict) == ["GM702"]
    assert "0 x Inf is NaN" in verdict.findings[0].cause


def test_trainer_that_saves_in_half_precision_is_caught_at_the_save(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        train_full(reference, lr=lr, steps=steps, seed=seed, output=output)
        edit_tensors(
            output / TRANSFORMER, lambda tensors: {name: t.bfloat16() for name, t in tensors.items()}
        )
        return output

    verdict = judged("zero_lr_identity", healthy, parameters={"trainer": trainer})

    assert codes(verdict) == ["GM703"]
    assert "rounded" in verdict.findings[0].message


def test_trainer_that_saves_the_wrapped_model_is_the_founding_incident(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        train_lora(reference, lr=lr, steps=steps, seed=seed, output=output / "lora")
        return adapter_wrapped(reference, output / "saved")

    verdict = judged("zero_lr_identity", healthy, parameters={"trainer": trainer})

    assert [(f.code, f.location) for f in verdict.findings] == [("GM203", TO_Q), ("GM704", TO_Q)]


def test_trainer_that_writes_another_schedule_is_caught_in_the_configuration(judged, healthy):
    from tests.editing import edit_json

    def trainer(reference, *, lr, steps, seed, output):
        train_full(reference, lr=lr, steps=steps, seed=seed, output=output)
        edit_json(output / "scheduler/scheduler_config.json", prediction_type="epsilon")
        return output

    [finding] = judged("zero_lr_identity", healthy, parameters={"trainer": trainer}).findings

    assert (finding.code, finding.location) == ("GM401", "scheduler_config.json:prediction_type")
    assert "another configuration than it was given" in finding.cause


def test_trainer_that_leaves_a_patched_class_behind_is_caught_in_the_sample(judged, healthy, monkeypatch):
    from diffusers import CogVideoXTransformer3DModel

    forward = CogVideoXTransformer3DModel.forward

    def trainer(reference, *, lr, steps, seed, output):
        train_full(reference, lr=lr, steps=steps, seed=seed, output=output)
        monkeypatch.setattr(
            CogVideoXTransformer3DModel, "forward", lambda *a, **k: (forward(*a, **k)[0] * 1.1,)
        )
        return output

    verdict = judged(
        "zero_lr_identity", healthy, parameters={"trainer": trainer}, level="full", steps=2, frames=9
    )

    assert codes(verdict) == ["GM705", "GM956"]  # by now both sides run under what the trainer left


def test_trainer_that_never_steps_is_caught(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        shutil.copytree(reference, output, dirs_exist_ok=True)
        return output

    for name in ("zero_lr_identity", "learning_moves"):
        assert codes(judged(name, healthy, parameters={"trainer": trainer}))[0] == "GM709"


def test_trainer_without_gradients_is_caught(judged, healthy, monkeypatch):
    from pytest_genmodel.pipelines.families.cogvideox import CogVideoX

    loss = CogVideoX.training_loss
    monkeypatch.setattr(CogVideoX, "training_loss", lambda *a, **k: loss(*a, **k) * 0.0)

    assert codes(judged("zero_lr_identity", healthy, parameters={"trainer": "full"})) == ["GM709"]


@pytest.mark.parametrize("gives_back", [True, False])
def test_trainer_that_writes_nothing_is_caught(judged, healthy, gives_back):
    def trainer(reference, *, lr, steps, seed, output):
        train_full(reference, lr=lr, steps=steps, seed=seed, output=output / "elsewhere")
        shutil.rmtree(output / "elsewhere")
        return reference if gives_back else None

    for name in ("zero_lr_identity", "learning_moves"):
        assert codes(judged(name, healthy, parameters={"trainer": trainer}))[-1] == "GM710"


def test_trainer_that_raises_cannot_be_judged(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        raise ZeroDivisionError("no data")

    verdict = judged("zero_lr_identity", healthy, parameters={"trainer": trainer})

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "ZeroDivisionError: no data" in verdict.reason


def test_frozen_part_is_caught_when_it_should_learn(judged, healthy, monkeypatch):
    from pytest_genmodel.training import full

    take_steps = full.take_steps

    def take_steps_on_the_first_block(pipeline, parameters, **arguments):
        block = pipeline.diffusers.transformer.transformer_blocks[1]
        block.requires_grad_(False)
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        take_steps(pipeline, trained, **arguments)

    monkeypatch.setattr(full, "take_steps", take_steps_on_the_first_block)

    verdict = judged("learning_moves", healthy, parameters={"trainer": "full"})

    [finding] = verdict.findings
    assert finding.code == "GM706"
    assert all(name.startswith("transformer_blocks.1.") for name in finding.evidence["tensors"])


def test_rate_that_is_always_zero_is_caught_when_it_should_learn(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        return train_full(reference, lr=0.0, steps=steps, seed=seed, output=output)

    verdict = judged("learning_moves", healthy, parameters={"trainer": trainer})

    assert set(codes(verdict)) == {"GM706"}
    assert verdict.findings[0].cause == "the rate was 0 in every step"


def test_change_outside_the_denoiser_is_caught(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        train_full(reference, lr=lr, steps=steps, seed=seed, output=output)
        edit_tensors(
            output / "vae/diffusion_pytorch_model.safetensors", lambda t: {n: v + 1 for n, v in t.items()}
        )
        return output

    [finding] = judged("learning_moves", healthy, parameters={"trainer": trainer}).findings

    assert (finding.code, finding.component) == ("GM707", "vae")


def test_explosion_is_caught(judged, healthy):
    verdict = judged(
        "learning_moves", healthy, parameters={"trainer": "full", "lr": float("inf"), "steps": 1}
    )

    assert "GM708" in codes(verdict)


def test_adapter_that_is_saved_before_it_learned_is_caught(judged, healthy, tmp_path):
    fresh = train_lora(healthy, lr=0.0, steps=1, seed=0, output=tmp_path / "fresh")

    def trainer(reference, *, lr, steps, seed, output):
        train_lora(reference, lr=lr, steps=steps, seed=seed, output=output / "trained")
        return fresh

    verdict = judged("learning_moves", healthy, parameters={"trainer": trainer})

    assert codes(verdict) == ["GM706"]
    assert "lora_B" in verdict.findings[0].message


def test_unknown_trainer_names_the_known_ones(judged, healthy):
    with pytest.raises(BadInputError, match="no trainer is called 'lore'; did you mean 'lora'"):
        judged("zero_lr_identity", healthy, parameters={"trainer": "lore"})


def test_large_denoiser_is_not_trained_at_the_quick_level(judged, healthy, monkeypatch):
    from pytest_genmodel.invariants import cost

    monkeypatch.setattr(cost, "LARGEST_QUICK", 1000)

    verdict = judged("zero_lr_identity", healthy)

    assert verdict.outcome is Outcome.SKIPPED
    assert "--genmodel-level=full" in verdict.reason


def test_nothing_is_written_into_what_is_judged(judged, healthy):
    def state(folder: Path):
        return {p.relative_to(folder): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}

    before = state(healthy)
    judged("zero_lr_identity", healthy)
    judged("save_load_round_trip", healthy)

    assert state(healthy) == before


def test_negative_zeros_that_become_positive_are_no_change(judged, copy):
    def to_negative_zero(tensors):
        for name in ("transformer_blocks.0.attn1.to_q.bias", "proj_out.bias"):
            tensors[name] = torch.full_like(tensors[name], -0.0)

    edit_tensors(copy / TRANSFORMER, to_negative_zero)

    assert codes(judged("zero_lr_identity", copy)) == []


@pytest.mark.parametrize("name", ["zero_lr_identity", "learning_moves"])
@pytest.mark.parametrize("trainer", ["full", "lora"])
@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_run_without_a_step_is_refused_in_one_line(judged, healthy, name, trainer, steps):
    with pytest.raises(BadInputError, match=rf"^steps={steps}: a training run takes at least one step$"):
        judged(name, healthy, parameters={"trainer": trainer, "steps": steps})


def lora_written_as(change):
    def trainer(reference, *, lr, steps, seed, output):
        folder = train_lora(reference, lr=lr, steps=steps, seed=seed, output=output)
        edit_tensors(folder / "pytorch_lora_weights.safetensors", change)
        return folder

    return trainer


def as_up_and_down(tensors):
    return {
        name.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): tensor
        for name, tensor in tensors.items()
    }


def test_adapter_in_the_older_names_has_learned(judged, healthy):
    verdict = judged("learning_moves", healthy, parameters={"trainer": lora_written_as(as_up_and_down)})

    assert codes(verdict) == []


def test_zero_adapter_in_the_older_names_is_caught(judged, healthy):
    def zero(tensors):
        return {name: t * 0 if "up" in name else t for name, t in as_up_and_down(tensors).items()}

    [finding] = judged("learning_moves", healthy, parameters={"trainer": lora_written_as(zero)}).findings

    assert finding.code == "GM706"
    assert "8 of 8 up factors" in finding.message


def test_adapter_without_an_up_factor_is_caught(judged, healthy):
    def downs(tensors):
        return {name: tensor for name, tensor in tensors.items() if "lora_A" in name}

    [finding] = judged("learning_moves", healthy, parameters={"trainer": lora_written_as(downs)}).findings

    assert (finding.code, finding.location) == ("GM706", "pytorch_lora_weights.safetensors")
    assert "no up factor" in finding.message


def test_optimizer_that_never_uses_the_gradients_is_caught(judged, healthy, monkeypatch):
    """The gradients are there when the step begins, and the moments are zero when it ends."""
    from torch.optim import AdamW

    class Forgetful(AdamW):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.zero_()
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Forgetful)

    [finding] = judged("zero_lr_identity", healthy, parameters={"trainer": "full"}).findings

    assert finding.code == "GM709"
    assert "moments are all zero" in finding.message
