"""neutral_transformations: what is done at the level full, or only where it is asked for, and tiles of one's own."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.hooks.layerwise_casting import LayerwiseCastingHook
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.transformations.neutral import Done, all_neutral

NAME = "neutral_transformations"
RARE = ("cpu_offload", "group_offload", "leaf_offload", "layerwise_casting", "attention_backend")
REGISTRY = attention_dispatch._AttentionBackendRegistry


def only(*names):
    return {"transformations": names}


def told(verdict):
    return [(finding.code, finding.component, finding.location) for finding in verdict.findings]


@pytest.mark.parametrize("name", ["cogvideox-i2v", "wan2.2-a14b-i2v", "ltx-i2v"])
def test_holds(judged, name):
    active = REGISTRY._active_backend

    verdict = judged(NAME, f"tiny:{name}", parameters=only(*RARE))

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert max(verdict.measurements["errors_over_limit"].values()) < 0.8
    assert set(RARE) - {"attention_backend"} <= set(verdict.measurements["errors_over_limit"])
    assert REGISTRY._active_backend == active


def test_what_is_rare_is_said_to_be_left_out():
    done = {name: change.done for name, change in all_neutral().items()}

    assert {name for name, when in done.items() if when in (Done.FULL, Done.MOVED)} == set(RARE)
    assert {name for name, when in done.items() if when is Done.ASKED} == {"compiled"}


def test_model_that_comes_back_with_other_values_is_found(judged, healthy, monkeypatch):
    from accelerate.hooks import CpuOffload

    before = CpuOffload.pre_forward

    def late(self, module, *args, **kwargs):
        parameter = next(module.parameters())
        parameter.data = parameter.data * 1.01
        return before(self, module, *args, **kwargs)

    monkeypatch.setattr(CpuOffload, "pre_forward", late)

    found = told(judged(NAME, healthy, parameters=only("cpu_offload")))

    assert found[0] == ("GM610", None, "step 1")
    assert "GM617" in [code for code, *_ in found]


def test_group_that_comes_back_with_other_values_is_found(judged, healthy, monkeypatch):
    onload = ModuleGroup._onload_from_memory

    def late(self):
        onload(self)
        for module in self.modules:
            for parameter in module.parameters():
                parameter.data = parameter.data * 1.01

    monkeypatch.setattr(ModuleGroup, "_onload_from_memory", late)

    assert told(judged(NAME, healthy, parameters=only("leaf_offload"))) == [("GM610", None, "step 1")]


def test_layer_that_computes_as_it_is_stored_is_found(judged, healthy, monkeypatch):
    def half(self, module, *args, **kwargs):
        module.to(dtype=self.compute_dtype)
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            module.bias.data *= 0.9
        return args, kwargs

    monkeypatch.setattr(LayerwiseCastingHook, "pre_forward", half)

    assert told(judged(NAME, healthy, parameters=only("layerwise_casting"))) == [("GM619", None, "step 1")]


def test_backend_of_the_dispatcher_that_ignores_the_scale_is_found(judged, monkeypatch):
    plain = REGISTRY._backends[AttentionBackendName._NATIVE_MATH]
    broken = lambda query, *args, **kwargs: plain(query * 1.05, *args, **kwargs)  # noqa: E731
    monkeypatch.setitem(REGISTRY._backends, AttentionBackendName._NATIVE_MATH, broken)

    verdict = judged(NAME, "tiny:wan2.1-i2v", parameters=only("attention_backend"))

    assert told(verdict) == [("GM611", None, "step 1")]


def test_model_that_is_another_while_it_is_traced_is_found(judged, healthy, monkeypatch):
    forward = CogVideoXTransformer3DModel.forward

    def other(self, hidden_states, *args, **kwargs):
        if torch.compiler.is_compiling():
            hidden_states = hidden_states * 1.01
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(CogVideoXTransformer3DModel, "forward", other)

    assert told(judged(NAME, healthy, parameters=only("compiled"))) == [("GM610", None, "step 1")]


def rows_exchanged(plain):
    def tiled(self, latents, return_dict=True):
        result = plain(self, latents, return_dict=return_dict)
        (result.sample if return_dict else result[0]).copy_(result[0].flip(-2))
        return result

    return tiled


def last_column_repeated(plain):
    def tiled(self, latents, return_dict=True):
        result = plain(self, latents, return_dict=return_dict)
        result[0][..., -1] = result[0][..., -9]
        return result

    return tiled


def one_row_short(plain):
    def tiled(self, latents, return_dict=True):
        result = plain(self, latents, return_dict=return_dict)
        result.sample = result.sample[..., 1:, :]
        return result

    return tiled


@pytest.mark.parametrize("wrong", [rows_exchanged, last_column_repeated, one_row_short])
def test_tiles_that_are_joined_wrongly_are_found(judged, healthy, monkeypatch, wrong):
    monkeypatch.setattr(AutoencoderKLCogVideoX, "tiled_decode", wrong(AutoencoderKLCogVideoX.tiled_decode))

    assert told(judged(NAME, healthy, parameters=only("vae_tiling"))) == [("GM613", "vae", "tiled_decode")]


def test_image_that_is_encoded_in_wrong_tiles_is_found(judged, healthy, monkeypatch):
    plain = AutoencoderKLCogVideoX.tiled_encode
    monkeypatch.setattr(
        AutoencoderKLCogVideoX, "tiled_encode", lambda self, video: plain(self, video.flip(-1))
    )

    [finding] = judged(NAME, healthy, parameters=only("vae_tiling")).findings

    assert (finding.code, finding.component, finding.location) == ("GM613", "vae", "tiled_encode")
    assert "row 0, column 0" in finding.message


def test_autoencoder_that_smooths_around_its_decoder_is_not_judged(judged, healthy, monkeypatch):
    plain = AutoencoderKLCogVideoX._decode

    def smoothed(self, latents, return_dict=True):
        result = plain(self, latents, return_dict=return_dict)
        sample = result.sample if return_dict else result[0]
        sample.copy_((sample + sample.roll(1, -1) * (2.0 if self.use_tiling else 1.0)) / 2)
        return result

    monkeypatch.setattr(AutoencoderKLCogVideoX, "_decode", smoothed)

    verdict = judged(NAME, healthy, parameters=only("vae_tiling"))

    assert "looks beyond one pixel" in verdict.measurements["notes"]["vae_tiling"]


def test_sizes_of_tiles_are_put_back(healthy):
    from pytest_genmodel.session import GenmodelSession
    from pytest_genmodel.settings import Settings
    from pytest_genmodel.transformations.bench import Bench
    from pytest_genmodel.transformations.left_behind import pipeline_state
    from pytest_genmodel.transformations.tiles import require_exact_tiles

    session = GenmodelSession(Settings(candidates=(str(healthy),)))
    context = session.context(0)
    bench = Bench(context.candidate, context.probe.but(steps=1))
    assert bench.decoded[0]
    before = pipeline_state(bench)

    assert require_exact_tiles(bench) is None
    after = pipeline_state(bench)
    session.close()

    assert after.differences(before) == {}
