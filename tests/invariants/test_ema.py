"""ema_contracts: a loop that keeps diffusers' average, whole and with what goes wrong in real ones."""

from __future__ import annotations

import shutil
from functools import wraps
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.training.averages import Schedule
from tests.editing import edit_json
from tests.invariants import own_loop
from tests.invariants.test_resume import SCRIPT, command

WEIGHTS = "diffusion_pytorch_model.safetensors"
NO_SCHEDULE = ("decay", "optimization_step", "update_after_step", "min_decay", "use_ema_warmup")


def loop(**settings):
    @wraps(own_loop.train)
    def trainer(*arguments, **more):
        return own_loop.train(*arguments, **settings, **more)

    return trainer


def without_schedule(folder: Path) -> None:
    edit_json(folder / "transformer_ema/config.json", **dict.fromkeys(NO_SCHEDULE))
    (folder / "state.pt").unlink()


def found(verdict):
    assert verdict.outcome is Outcome.FAILED, verdict.reason
    return verdict.findings[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"decay": 0.9999},
        {"use_ema_warmup": True},
        {"use_ema_warmup": True, "inv_gamma": 2.0, "power": 0.75},
        {"foreach": True},
        {"min_decay": 0.5},
    ],
)
def test_average_of_diffusers_is_where_its_schedule_puts_it(judged, healthy, settings):
    verdict = judged("ema_contracts", healthy, parameters={"trainer": loop(**settings)})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert 0 < verdict.measurements["share"] < 1
    assert verdict.measurements["final"] == "average"


class Constant(EMAModel):
    """An average at one decay from the first step on, written as most people write it."""

    def step(self, parameters):
        self.optimization_step += 1
        with torch.no_grad():
            for average, parameter in zip(self.shadow_params, parameters, strict=True):
                average.copy_(self.decay * average + (1 - self.decay) * parameter)


@pytest.mark.parametrize(("decay", "expected"), [(0.5, 0.75), (0.99, 0.023), (0.9999, 2.4e-4)])
def test_average_without_a_known_schedule_lies_on_its_way(judged, healthy, decay, expected):
    trainer = loop(average=Constant, decay=decay, written=without_schedule)

    verdict = judged("ema_contracts", healthy, parameters={"trainer": trainer, "steps": 3})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["share"] == pytest.approx(expected, rel=0.2)


class NeverUpdated(EMAModel):
    def step(self, parameters):
        pass


class MovesAway(Constant):
    def step(self, parameters):
        self.optimization_step += 1
        with torch.no_grad():
            for average, parameter in zip(self.shadow_params, parameters, strict=True):
                average.add_((1 - self.decay) * (average - parameter))


class Exchanged(Constant):
    def step(self, parameters):
        self.decay = 1 - self.decay
        super().step(parameters)
        self.decay = 1 - self.decay


class BeforeTheOptimizer(EMAModel):
    """What it is given at each step are the weights before it."""

    def __init__(self, parameters, **settings):
        super().__init__(parameters, **settings)
        self.last = [parameter.detach().clone() for parameter in parameters]

    def step(self, parameters):
        now = [parameter.detach().clone() for parameter in parameters]
        super().step([torch.nn.Parameter(tensor) for tensor in self.last])
        self.last = now


class FromAnotherModel(Constant):
    def __init__(self, parameters, **settings):
        super().__init__(parameters, **settings)
        generator = torch.Generator().manual_seed(7)
        self.shadow_params = [torch.randn(p.shape, generator=generator) * 0.02 for p in self.shadow_params]


@pytest.mark.parametrize(
    ("average", "settings", "code", "cause"),
    [
        (NeverUpdated, {}, "GM725", "updated 0 times"),
        (EMAModel, {"decay": 0.0}, "GM726", "its decay is 0"),
        (MovesAway, {}, "GM727", "wrong sign"),
        (Exchanged, {"decay": 0.9999, "written": without_schedule}, "GM727", "complement are exchanged"),
        (BeforeTheOptimizer, {}, "GM727", "called before the optimizer's"),
        (FromAnotherModel, {"decay": 0.99}, "GM727", "began from another model"),
    ],
)
def test_average_that_is_kept_wrongly_is_caught(judged, healthy, average, settings, code, cause):
    trainer = loop(average=average, **settings)

    finding = found(judged("ema_contracts", healthy, parameters={"trainer": trainer}))

    assert (finding.code, cause in (finding.cause or "")) == (code, True), finding


def in_bfloat16(folder):
    file = folder / "transformer_ema" / WEIGHTS
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)


def test_average_that_is_stored_in_fewer_digits_is_judged_by_what_they_show(judged, healthy):
    verdict = judged("ema_contracts", healthy, parameters={"trainer": loop(written=in_bfloat16)})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)


def test_average_whose_digits_show_no_update_cannot_be_judged(judged, healthy):
    def written(folder):
        without_schedule(folder)
        in_bfloat16(folder)

    trainer = loop(average=Constant, decay=0.9999, written=written)

    verdict = judged("ema_contracts", healthy, parameters={"trainer": trainer})

    assert (verdict.outcome, verdict.findings) == (Outcome.INCONCLUSIVE, ())
    assert "fewer digits" in verdict.reason


def exchange(folder):
    raw, average = folder / "transformer" / WEIGHTS, folder / "transformer_ema" / WEIGHTS
    kept = raw.read_bytes()
    shutil.copyfile(average, raw)
    average.write_bytes(kept)


def copy_raw(folder):
    shutil.copyfile(folder / "transformer" / WEIGHTS, folder / "transformer_ema" / WEIGHTS)


def mix(folder):
    raw, average = (load_file(folder / name / WEIGHTS) for name in ("transformer", "transformer_ema"))
    taken = {name: tensor for name, tensor in raw.items() if name.startswith("transformer_blocks.1.")}
    save_file({**average, **taken}, folder / "transformer_ema" / WEIGHTS)


def as_diffusers_saves_it(folder):
    """What `EMAModel.save_pretrained` does: a model made from its configuration, into which parameters are copied."""
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer_ema")
    fresh = CogVideoXTransformer3DModel.from_config(model.config)
    EMAModel(model.parameters()).copy_to(fresh.parameters())
    fresh.save_pretrained(folder / "transformer_ema")


@pytest.mark.parametrize(
    ("edit", "code", "location"),
    [
        (exchange, "GM727", "checkpoint-2/ema"),
        (copy_raw, "GM726", ""),
        (mix, "GM726", "transformer_blocks.1."),
        (as_diffusers_saves_it, "GM728", "patch_embed.pos_embedding"),
    ],
)
def test_average_that_is_saved_wrongly_is_caught(judged, healthy, edit, code, location):
    finding = found(judged("ema_contracts", healthy, parameters={"trainer": loop(written=edit)}))

    assert (finding.code, location in finding.location, finding.component) == (code, True, "transformer"), (
        finding
    )


def test_average_that_is_not_on_yet_cannot_be_judged(judged, healthy):
    verdict = judged("ema_contracts", healthy, parameters={"trainer": loop(update_after_step=100)})

    assert (verdict.outcome, verdict.findings) == (Outcome.INCONCLUSIVE, ())
    assert "a copy of the weights until update 102" in verdict.reason


def test_trainer_without_an_average_is_skipped(judged, healthy):
    verdict = judged("ema_contracts", healthy, parameters={"trainer": "full"})

    assert verdict.outcome is Outcome.SKIPPED
    assert "--use_ema" in verdict.reason


def test_average_that_the_example_script_keeps_is_where_its_schedule_puts_it(judged, healthy):
    text = command(SCRIPT, "--training_type lora", "--use_ema")

    verdict = judged("ema_contracts", healthy, parameters={"trainer": text})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["ema"] == "checkpoint-2/ema.pt"
    assert 0.82 < verdict.measurements["share"] < 1


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_ema_warmup": True}, {"update_after_step": 3}, {"min_decay": 0.3}, {"decay": 0.5}],
)
def test_decay_is_that_of_diffusers(settings):
    model = EMAModel([torch.zeros(1)], **settings)
    names = ("min_decay", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
    schedule = Schedule(model.decay, 12, **{name: getattr(model, name) for name in names})

    assert [schedule.at(update) for update in range(1, 13)] == [model.get_decay(n) for n in range(1, 13)]
    assert sum(schedule.shares) == pytest.approx(1)
    assert len(schedule.shares) == 13
