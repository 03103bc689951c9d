"""save_load_round_trip: what is saved comes back."""

from __future__ import annotations

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import TO_Q


def test_holds_and_proves_the_sample_equal_without_computing_it(judged, healthy):
    verdict = judged("save_load_round_trip", healthy)

    assert verdict.outcome is Outcome.PASSED
    assert "proven equal" in verdict.measurements["sample"]


def test_samples_at_the_full_level(judged, healthy):
    verdict = judged("save_load_round_trip", healthy, level="full", steps=2, frames=9)

    assert verdict.outcome is Outcome.PASSED
    assert "sample" not in verdict.measurements


def test_buffer_that_is_not_saved_is_found(judged, healthy, monkeypatch):
    save = CogVideoXTransformer3DModel.save_pretrained

    def save_without_the_table(self, *args, **kwargs):
        self.patch_embed._non_persistent_buffers_set.add("pos_embedding")
        try:
            return save(self, *args, **kwargs)
        finally:
            self.patch_embed._non_persistent_buffers_set.discard("pos_embedding")

    monkeypatch.setattr(CogVideoXTransformer3DModel, "save_pretrained", save_without_the_table)

    verdict = judged("save_load_round_trip", healthy)

    assert verdict.outcome is Outcome.FAILED
    assert (verdict.findings[0].code, verdict.findings[0].location) == ("GM601", "patch_embed.pos_embedding")


def test_cast_while_saving_is_recognised(judged, healthy, monkeypatch):
    save = CogVideoXTransformer3DModel.save_pretrained

    def save_in_half(self, *args, **kwargs):
        import copy

        return save(copy.deepcopy(self).half(), *args, **kwargs)

    monkeypatch.setattr(CogVideoXTransformer3DModel, "save_pretrained", save_in_half)

    [finding] = judged("save_load_round_trip", healthy).findings

    assert (finding.code, finding.component) == ("GM601", "transformer")
    assert "float16" in finding.message


def test_runtime_change_of_the_schedule_that_is_not_saved_is_found(judged, healthy, monkeypatch):
    load = CogVideoXDDIMScheduler.from_pretrained
    made = []

    def load_and_change(*args, **kwargs):
        scheduler = load(*args, **kwargs)
        if not made:  # the loaded one is changed at run time; the reloaded one is as the file says
            scheduler.config._internal_dict = None
            scheduler._internal_dict = type(scheduler.config)(
                {**scheduler.config, "timestep_spacing": "leading"}
            )
            scheduler.save_config = lambda folder, **_: load(healthy / "scheduler").save_config(folder)
            scheduler.save_pretrained = lambda folder, **_: load(healthy / "scheduler").save_pretrained(
                folder
            )
        made.append(scheduler)
        return scheduler

    monkeypatch.setattr(CogVideoXDDIMScheduler, "from_pretrained", load_and_change)

    findings = judged("save_load_round_trip", healthy).findings

    assert ("GM602", "scheduler:timestep_spacing") in [(f.code, f.location) for f in findings]


def test_what_lives_outside_weights_and_configuration_shows_in_the_sample(judged, healthy, monkeypatch):
    """A hook on the live model is not saved, and no weight tells of it: only the sample does."""
    load = CogVideoXTransformer3DModel.from_pretrained
    hooked = []

    def load_with_a_hook(*args, **kwargs):
        model = load(*args, **kwargs)
        if not hooked:
            model.proj_out.register_forward_hook(lambda module, inputs, output: output * 1.5)
            hooked.append(model)
        return model

    monkeypatch.setattr(CogVideoXTransformer3DModel, "from_pretrained", load_with_a_hook)

    verdict = judged("save_load_round_trip", healthy, level="full", steps=2, frames=9)

    assert [(f.code, f.location) for f in verdict.findings][:1] == [("GM604", "step 1")]


def test_unaligned_weights_are_no_difference(judged, healthy, monkeypatch):
    """A memory-mapped file puts tensors at odd addresses, which changes a sample's last bits."""
    load = CogVideoXTransformer3DModel.from_pretrained
    count = []

    def load_unaligned(*args, **kwargs):
        model = load(*args, **kwargs)
        count.append(1)
        for parameter in model.parameters():
            storage = torch.empty(parameter.numel() + 1)
            parameter.data = (
                storage[len(count) % 2 :][: parameter.numel()].view_as(parameter).copy_(parameter.data)
            )
        return model

    monkeypatch.setattr(CogVideoXTransformer3DModel, "from_pretrained", load_unaligned)

    assert judged("save_load_round_trip", healthy, level="full", steps=2, frames=9).findings == ()


def test_cannot_be_judged_where_tensors_were_never_loaded(judged, copy):
    from tests.editing import TRANSFORMER, drop_tensors

    drop_tensors(copy / TRANSFORMER, TO_Q)

    verdict = judged("save_load_round_trip", copy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert TO_Q in verdict.reason


def test_way_of_working_is_noted_and_a_shift_of_the_run_is_an_error():
    from diffusers import FlowMatchEulerDiscreteScheduler

    from pytest_genmodel.pipelines.unsaved import unsaved_settings

    live, saved = (FlowMatchEulerDiscreteScheduler(shift=3.0) for _ in range(2))
    assert list(unsaved_settings(live, saved, 4)) == []
    live.set_timesteps(2)  # the state of a run is no setting
    assert list(unsaved_settings(live, saved, 4)) == []

    live.set_shift(7.0)

    [setting] = unsaved_settings(live, saved, 4)
    assert (setting.name, setting.live, setting.reloaded) == ("shift", 7.0, 3.0)
    assert setting.changes_results


def test_tiles_that_were_switched_on_are_noted(judged, healthy, monkeypatch):
    from diffusers import AutoencoderKLCogVideoX

    load, tiled = AutoencoderKLCogVideoX.from_pretrained.__func__, []

    def from_pretrained(cls, *given, **more):
        vae = load(cls, *given, **more)
        if not tiled:  # the first that is loaded is the live one
            vae.enable_tiling()
            tiled.append(True)
        return vae

    monkeypatch.setattr(AutoencoderKLCogVideoX, "from_pretrained", classmethod(from_pretrained))

    verdict = judged("save_load_round_trip", healthy)

    assert [(f.code, f.component, f.location) for f in verdict.findings] == [
        ("GM606", "vae", "vae:use_tiling")
    ]
    assert verdict.outcome is Outcome.PASSED
