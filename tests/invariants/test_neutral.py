"""neutral_transformations: healthy pipelines of every family pass, each way in which one is not neutral is told."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers import CogVideoXImageToVideoPipeline as Live
from diffusers.models.attention_processor import FusedCogVideoXAttnProcessor2_0

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.registry import find
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.transformations.neutral import Done, all_neutral

NAME = "neutral_transformations"
LONG = pytest.mark.parametrize("name", ["cogvideox-i2v", "cogvideox-i2v-trained"])
"""The other families are judged where their whole suite is (`tests/pipelines/families/whole.py`)."""


def only(*names):
    return {"transformations": names}


def told(verdict):
    return [(finding.code, finding.location) for finding in verdict.findings]


@pytest.fixture(scope="session")
def verdict_of(tmp_path_factory):
    """Judge every transformation on a tiny pipeline, once."""
    from pytest_genmodel.session import GenmodelSession
    from pytest_genmodel.settings import Settings

    found = {}

    def judge(name):
        if name not in found:
            session = GenmodelSession(Settings(candidates=(f"tiny:{name}",)))
            found[name] = session.judge(0, NAME, {})
            session.close()
        return found[name]

    return judge


@LONG
def test_holds(verdict_of, name):
    verdict = verdict_of(name)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


@LONG
def test_is_well_inside_the_limit(verdict_of, name):
    """A limit that healthy models all but reach would raise a false alarm on the next machine."""
    assert max(verdict_of(name).measurements["errors_over_limit"].values()) < 0.8


def test_says_what_it_did(verdict_of):
    measured = verdict_of("cogvideox-i2v").measurements

    assert set(measured["errors_over_limit"]) | set(measured["left_out"]) >= set(all_neutral())
    assert measured["left_out"]["cpu_offload"] == "done on an accelerator, and at --genmodel-level=full"
    assert set(measured["left_out"]) == {
        name for name, change in all_neutral().items() if change.done is not Done.ALWAYS
    }
    assert measured["pipeline_runs"] == 12
    assert set(measured["floor"]["latents"]) == {"same again", "memory alignment", "thread count"}
    assert "tiles" in measured["notes"]["vae_tiling"]


def test_takes_some_of_them(judged, healthy):
    verdict = judged(NAME, healthy, parameters=only("math_attention"))

    assert verdict.outcome is Outcome.PASSED
    assert set(verdict.measurements["errors_over_limit"]) == {"math_attention", "all of it undone"}


@pytest.mark.parametrize("value", ["math_attention", ("no_such",), (1,)])
def test_refuses_a_name_that_is_none(value):
    with pytest.raises(BadInputError, match=r"transformation"):
        find(NAME).check({"transformations": value})


def test_attention_that_ignores_its_scale_on_one_kernel_is_found(judged, healthy, monkeypatch):
    plain = F.scaled_dot_product_attention

    def broken(query, key, value, *args, **kwargs):
        fused = torch.backends.cuda.flash_sdp_enabled()
        return plain(query * 1.05 if fused else query, key, value, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", broken)

    verdict = judged(NAME, healthy, parameters=only("math_attention"))

    assert told(verdict) == [("GM611", "step 1")]
    assert "math_attention" in verdict.findings[0].message


def test_projections_fused_in_another_order_are_found(judged, healthy, monkeypatch):
    fused = FusedCogVideoXAttnProcessor2_0.__call__

    def exchanged(self, attn, *args, **kwargs):
        weight = attn.to_qkv.weight
        query, key, value = weight.data.chunk(3)
        kept, weight.data = weight.data, torch.cat([query, value, key])
        try:
            return fused(self, attn, *args, **kwargs)
        finally:
            weight.data = kept

    monkeypatch.setattr(FusedCogVideoXAttnProcessor2_0, "__call__", exchanged)

    assert told(judged(NAME, healthy, parameters=only("fuse_qkv"))) == [("GM610", "step 1")]


def test_processors_that_are_not_put_back_are_found(judged, healthy, monkeypatch):
    monkeypatch.setattr(CogVideoXTransformer3DModel, "unfuse_qkv_projections", lambda self: None)

    [finding, *_] = judged(NAME, healthy, parameters=only("fuse_qkv")).findings

    assert finding.code == "GM617"
    assert finding.location == "transformer.transformer_blocks.0.attn1"
    assert "FusedCogVideoXAttnProcessor2_0" in finding.message


def test_checkpointed_block_that_is_given_other_arguments_is_found(judged, healthy, monkeypatch):
    enable = CogVideoXTransformer3DModel.enable_gradient_checkpointing

    def forgetful(self, *args, **kwargs):
        enable(self, *args, **kwargs)
        through = self._gradient_checkpointing_func
        self._gradient_checkpointing_func = lambda block, hidden, *rest: through(block, hidden * 1.01, *rest)

    monkeypatch.setattr(CogVideoXTransformer3DModel, "enable_gradient_checkpointing", forgetful)

    assert told(judged(NAME, healthy, parameters=only("gradient_checkpointing"))) == [("GM618", "prediction")]


def test_cache_that_one_slice_leaves_to_the_next_is_found(judged, healthy, monkeypatch):
    decode = AutoencoderKLCogVideoX._decode

    def dirty(self, z, *args, **kwargs):
        if self.use_slicing and hasattr(self, "dirt"):
            z = z + self.dirt
        self.dirt = z * 0.01 if self.use_slicing else 0.0
        return decode(self, z, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKLCogVideoX, "_decode", dirty)

    assert ("GM612", "row 1") in told(judged(NAME, healthy, parameters=only("vae_slicing")))


@pytest.mark.parametrize(
    ("name", "blend"),
    [
        ("blend_v", lambda self, a, b, extent: b),
        ("blend_h", lambda self, a, b, extent: torch.cat([a[..., :extent], b[..., extent:]], dim=-1)),
        ("blend_v", lambda self, a, b, extent: (a + b) / 2),
    ],
)
def test_tiles_that_meet_in_a_step_are_found(judged, healthy, monkeypatch, name, blend):
    monkeypatch.setattr(AutoencoderKLCogVideoX, name, blend)

    [finding, *_] = judged(NAME, healthy, parameters=only("vae_tiling")).findings

    assert (finding.code, finding.component, finding.location) == ("GM613", "vae", name)


def test_copy_that_shares_a_tensor_with_the_original_is_found(judged, healthy, monkeypatch):
    def shallow(self, memo):
        return self

    monkeypatch.setattr(AutoencoderKLCogVideoX, "__deepcopy__", shallow, raising=False)

    [finding] = judged(NAME, healthy, parameters=only("deepcopy")).findings

    assert (finding.code, finding.component) == ("GM616", "vae")
    assert finding.location.startswith("encoder.")


def test_pipeline_argument_that_from_pipe_forgets_is_found(judged, healthy, monkeypatch):
    plain = Live.from_pipe.__func__

    def forgetful(cls, pipeline, **kwargs):
        new = plain(cls, pipeline, **kwargs)
        new.vae_scaling_factor_image = 1.0
        new.scheduler = CogVideoXDDIMScheduler.from_config(new.scheduler.config, prediction_type="epsilon")
        return new

    monkeypatch.setattr(Live, "from_pipe", classmethod(forgetful))

    assert told(judged(NAME, healthy, parameters=only("from_pipe"))) == [("GM610", "step 1")]


def test_tensor_that_goes_through_half_precision_is_found(judged, healthy, monkeypatch):
    to = CogVideoXTransformer3DModel.to

    def narrow(self, *args, **kwargs):
        if args == (torch.float64,):
            self.proj_out.weight.data = self.proj_out.weight.data.half().float()
        return to(self, *args, **kwargs)

    monkeypatch.setattr(CogVideoXTransformer3DModel, "to", narrow)

    verdict = judged(NAME, healthy, parameters=only("float64_and_back"))

    assert [(f.code, f.component, f.location) for f in verdict.findings] == [
        ("GM614", "transformer", "proj_out.weight")
    ]


def test_tensor_that_is_made_anew_when_it_is_moved_is_found(judged, healthy, monkeypatch):
    to = AutoencoderKLCogVideoX.to

    def fresh(self, *args, **kwargs):
        if len(args) == 2:  # as the pipeline moves it, and not as it is loaded
            self.encoder.conv_in.conv.bias.data.fill_(0.5)
        return to(self, *args, **kwargs)

    monkeypatch.setattr(AutoencoderKLCogVideoX, "to", fresh)

    [finding] = judged(NAME, healthy, parameters=only("device_and_back")).findings

    assert (finding.code, finding.component) == ("GM614", "vae")
    assert finding.location == "encoder.conv_in.conv.bias"


def test_upcast_that_is_lost_in_bfloat16_is_found(judged, healthy, monkeypatch):
    """Time steps that collapse into one where the run is in 16 bits, and only there."""
    forward = CogVideoXTransformer3DModel.forward

    def lossy(self, *args, timestep=None, **kwargs):
        if self.dtype == torch.bfloat16:
            timestep = torch.full_like(timestep, 500)
        return forward(self, *args, timestep=timestep, **kwargs)

    monkeypatch.setattr(CogVideoXTransformer3DModel, "forward", lossy)

    [finding] = judged(NAME, "tiny:cogvideox-i2v-trained", parameters=only("bfloat16")).findings

    assert finding.code == "GM615"
    assert finding.location.startswith("step")


def test_hook_that_is_left_behind_is_found(judged, healthy, monkeypatch):
    disable = AutoencoderKLCogVideoX.disable_slicing
    enable = AutoencoderKLCogVideoX.enable_slicing

    def hooked(self):
        enable(self)
        self.decoder.register_forward_hook(lambda *_: None)

    monkeypatch.setattr(AutoencoderKLCogVideoX, "enable_slicing", hooked)
    assert disable is AutoencoderKLCogVideoX.disable_slicing

    found = told(judged(NAME, healthy, parameters=only("vae_slicing")))

    assert ("GM617", "vae.decoder:hooks") in found


def test_something_that_no_attribute_tells_shows_in_the_last_sample(judged, healthy, monkeypatch):
    step = CogVideoXDDIMScheduler.step
    calls = []

    def leaking(self, model_output, *args, **kwargs):
        calls.append(1)
        return step(self, model_output * (1.0 if len(calls) <= 10 else 1.01), *args, **kwargs)

    monkeypatch.setattr(CogVideoXDDIMScheduler, "step", leaking)

    [finding, *_] = judged(NAME, healthy, parameters=only("math_attention")).findings

    assert finding.code == "GM617"
    assert "all of it undone" in finding.message


def test_cannot_judge_where_the_same_again_is_another_sample(judged, healthy, monkeypatch):
    step = CogVideoXDDIMScheduler.step

    def drifting(self, model_output, *args, **kwargs):
        return step(self, model_output + torch.randn(()) * 0.1, *args, **kwargs)

    monkeypatch.setattr(CogVideoXDDIMScheduler, "step", drifting)

    verdict = judged(NAME, healthy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "'same again' fails" in verdict.reason


def test_leaves_the_shared_pipeline_alone(judged, healthy, monkeypatch):
    seen = []
    monkeypatch.setattr(
        AutoencoderKLCogVideoX, "enable_tiling", lambda self, *_: seen.append(id(self)), raising=True
    )
    from pytest_genmodel.session import GenmodelSession
    from pytest_genmodel.settings import Settings

    session = GenmodelSession(Settings(candidates=(str(healthy),)))
    shared = session.context(0).candidate.component("vae")
    session.judge(0, NAME, only("vae_tiling"))
    session.close()

    assert seen
    assert id(shared) not in seen


def test_floors_are_kept_and_read(judged, healthy, tmp_path):
    file = tmp_path / "floors.json"
    first = judged(NAME, healthy, parameters=only("math_attention"), calibrate=str(file))
    content = json.loads(file.read_text())
    second = judged(NAME, healthy, parameters=only("math_attention"), calibrate=str(file))

    assert first.outcome is second.outcome is Outcome.PASSED
    assert {"torch", "device", "dtype", "threads", "cpu capability"} <= content["environment"].keys()
    assert list(content["floors"]) == ["CogVideoXImageToVideoPipeline, 16x16, 9 frames, 2 steps, guidance 6"]
    assert second.measurements["pipeline_runs"] == first.measurements["pipeline_runs"] - 3


def test_floors_are_the_references_where_there_is_one(judged, healthy, copy, tmp_path):
    verdict = judged(
        NAME, copy, healthy, parameters=only("math_attention"), calibrate=str(tmp_path / "floors.json")
    )

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


def test_floors_of_another_environment_are_refused(judged, healthy, tmp_path):
    file = tmp_path / "floors.json"
    judged(NAME, healthy, parameters=only("math_attention"), calibrate=str(file))
    content = json.loads(file.read_text())
    content["environment"]["torch"] = "1.0"
    file.write_text(json.dumps(content))

    verdict = judged(NAME, healthy, parameters=only("math_attention"), calibrate=str(file))

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "measured with torch 1.0" in verdict.reason
    assert json.loads(file.read_text()) == content


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 2}', '{"schema": 1, "environment": {}, "floors": {"a": 1}}']
)
def test_file_that_is_no_calibration_is_refused(judged, healthy, tmp_path, text):
    file = tmp_path / "floors.json"
    file.write_text(text)

    verdict = judged(NAME, healthy, parameters=only("math_attention"), calibrate=str(file))

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "not a calibration file" in verdict.reason
    assert file.read_text() == text


def test_offloading_is_undone(healthy):
    """On the CPU accelerate's hooks do the same and move nothing."""
    from pytest_genmodel.session import GenmodelSession
    from pytest_genmodel.settings import Settings
    from pytest_genmodel.transformations.bench import Bench, sampled
    from pytest_genmodel.transformations.left_behind import pipeline_state
    from pytest_genmodel.transformations.neutral_pipelines import offloaded

    session = GenmodelSession(Settings(candidates=(str(healthy),)))
    context = session.context(0)
    bench = Bench(context.candidate, context.probe.but(steps=2))
    base = bench.base(sampled)
    before = pipeline_state(bench)
    with offloaded(bench, "cpu") as live:
        seen = sampled(bench, "offloaded", live)
    after = pipeline_state(bench)
    session.close()

    assert all(torch.equal(a.values, b.values) for a, b in zip(seen, base, strict=True))
    assert after.differences(before) == {}
