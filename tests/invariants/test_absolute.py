"""absolute_checks: silent on healthy models in every dtype, leaves nothing behind, and says what is wrong and where.

That each part fails for its own fault is in the matrix of faults; here is what the matrix does not ask.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from pytest_genmodel.invariants.absolute.told import _timesteps
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.kernels import LIMITS, KernelCall
from pytest_genmodel.pipelines.observed_run import Denoised, ObservedRun, Stepped, observe_run
from pytest_genmodel.pipelines.recording import Call, kept
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.tensors.closed_forms import FORMS


@pytest.fixture(scope="module")
def context():
    session = GenmodelSession(Settings(candidates=("tiny:cogvideox-i2v",)))
    yield session.context(0)
    session.close()


@pytest.fixture(scope="module")
def run(context):
    return observe_run(context.candidate, context.probe)


def found(verdict):
    return [(f.code, f.component, f.location) for f in verdict.findings]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("cogvideox-2b-i2v", "bfloat16"), ("wan2.1-i2v", "bfloat16"), ("ltx-condition", "float16")],
)
def test_half_precision_is_no_fault(judged, name, dtype):
    verdict = judged("absolute_checks", f"tiny:{name}", dtype=dtype)

    assert (verdict.outcome, found(verdict)) == (Outcome.PASSED, [])
    assert verdict.measurements["kernel_calls_judged"] > 20


def test_what_was_judged_is_measured(judged, healthy):
    measured = judged("absolute_checks", healthy).measurements

    assert {"conv3d", "group_norm", "linear", "scaled_dot_product_attention"} <= measured["kernels"].keys()
    assert measured["guidance"] == 6.0
    assert measured["position_tables"] == 1
    assert measured["noise_levels"] == 6
    assert measured["decoder_order"] > 0.9


def test_run_is_what_a_sample_is_and_leaves_nothing_behind(context, run):
    live = context.candidate.diffusers
    functions, randn = {name: getattr(F, name) for name in FORMS}, torch.randn

    again = observe_run(context.candidate, context.probe)

    plain = context.candidate.sample(context.probe.but(steps=2))
    assert torch.equal(again.sample.latents, plain.latents)
    assert torch.equal(again.sample.frames, plain.frames)
    assert {name: getattr(F, name) for name in FORMS} == functions
    assert torch.randn is randn
    assert "step" in vars(type(live.scheduler))
    assert not {"encode", "decode"} & vars(live.vae).keys()
    models = [part for part in live.components.values() if isinstance(part, torch.nn.Module)]
    hooks = [module._forward_hooks or module._forward_pre_hooks for m in models for module in m.modules()]
    assert not any(hooks)


def test_run_sees_every_door(run):
    assert [tuple(pixels.shape) for pixels in run.encoded] == [(1, 3, 1, 16, 16)]
    assert [seen.step for seen in run.denoised] == [0, 1]
    assert [step.timestep for step in run.steps] == [999.0, 499.0]
    assert run.frames_decoded == len(run.sample.frames) == 9
    assert [tuple(latents.shape) for latents in run.taken] == [(1, 4, 1, 2, 2)]
    assert [tuple(noise.shape) for noise in run.drawn] == [(1, 4, 1, 2, 2), (1, 3, 4, 2, 2)]


def test_kernels_are_far_within_their_limits(run):
    assert max(call.error / call.limit for call in run.kernels.judged) < 0.1
    assert LIMITS["float32"] < LIMITS["float16"] < LIMITS["bfloat16"]
    assert KernelCall("linear", "vae", "", (), "float32", float("nan"), 1.0).is_wrong


@pytest.mark.parametrize(
    ("timesteps", "told"),
    [
        ([999.0, 0.0, 999.0], None),
        ([999.0, 500.0], 500.0),
        ([0.0, 0.0], 0.0),
        ([999.004], None),
        ([998.0], 998.0),
    ],
)
def test_every_token_is_told_the_schedulers_timestep_or_none(timesteps, told):
    call = Call("transformer", 0, {"timestep": kept(torch.tensor([timesteps]))})
    run = ObservedRun(
        None,
        denoised=[Denoised(call, torch.zeros(1), 0)],
        steps=[Stepped(torch.zeros(1), 999.0)],
    )

    findings = list(_timesteps(run))

    assert [f.evidence["told"] for f in findings] == ([] if told is None else [told])


def test_kernel_of_one_component_is_named_by_its_module(judged, healthy, monkeypatch):
    group_norm = F.group_norm
    monkeypatch.setattr(F, "group_norm", lambda *given, **more: group_norm(*given, **more) * 1.01)

    verdict = judged("absolute_checks", healthy)

    assert ("GM933", None, "group_norm") in found(verdict)  # no other component has one
    assert "every call is wrong" in verdict.findings[0].cause


def test_attention_scaled_otherwise_than_its_layer_is_found(judged, healthy, monkeypatch):
    """The kernel is right; the layer asks it for another scale than its own."""
    call = CogVideoXAttnProcessor2_0.__call__

    def doubled(self, attn, *given, **more):
        with monkeypatch.context() as patch:
            attend = F.scaled_dot_product_attention
            patch.setattr(
                F, "scaled_dot_product_attention", lambda *a, **o: attend(*a, **{**o, "scale": 1 / 16})
            )
            return call(self, attn, *given, **more)

    monkeypatch.setattr(CogVideoXAttnProcessor2_0, "__call__", doubled)

    assert ("GM932", "transformer", "transformer_blocks.0.attn1") in found(judged("absolute_checks", healthy))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda table: table.bfloat16().float(), "rounding of 16 bits"),
        (lambda table: table.flip(1), "another grid"),
    ],
)
def test_rotary_table_is_compared_with_its_formula(judged, monkeypatch, change, cause):
    forward = WanRotaryPosEmbed.forward
    monkeypatch.setattr(
        WanRotaryPosEmbed, "forward", lambda self, hidden: tuple(change(t) for t in forward(self, hidden))
    )

    [finding] = [f for f in judged("absolute_checks", "tiny:wan2.1-i2v").findings if f.code == "GM930"]

    assert (finding.component, finding.location) == ("transformer", "rope")
    assert cause in finding.cause


def test_what_follows_from_inputs_that_are_not_finite_is_no_kernels_fault(judged, healthy, monkeypatch):
    """The decoder is handed Inf: who handed it is to be named, not the convolutions that pass it on."""
    from diffusers import AutoencoderKLCogVideoX

    decode = AutoencoderKLCogVideoX.decode
    monkeypatch.setattr(
        AutoencoderKLCogVideoX, "decode", lambda self, z, *a, **k: decode(self, z * float("inf"), *a, **k)
    )

    codes = {finding.code for finding in judged("absolute_checks", healthy).findings}

    assert not codes & {"GM932", "GM933"}
