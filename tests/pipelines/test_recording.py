"""What a denoiser is given: exact, by name, through wrappers, and nothing left behind."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_genmodel.pipelines import recording
from pytest_genmodel.pipelines.conditions import conditions_of
from pytest_genmodel.pipelines.recording import (
    Call,
    Recorded,
    Recorder,
    innermost,
    kept,
    record_pipeline,
    recorded_calls,
    watch_class,
)
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.training.calls import read_calls, write_call


class Denoiser(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = torch.nn.Linear(4, 4)

    def forward(self, hidden_states, timestep, ofs=None, image_rotary_emb=None, return_dict=True, **more):
        return self.to_q(hidden_states) * timestep


@pytest.fixture
def given_to():
    return {
        "hidden_states": torch.randn(2, 4, dtype=torch.float32, generator=torch.Generator().manual_seed(0)),
        "image_rotary_emb": (
            torch.ones(3, dtype=torch.bfloat16),
            {"sin": torch.zeros(3, dtype=torch.complex64)},
        ),
        "return_dict": False,
        "extra": {"ids": torch.arange(3)},
    }


def test_arguments_are_named_and_nested_and_none_is_left_out(given_to):
    model = Denoiser()
    with recorded_calls({"transformer": model}, Recorder(1)) as recorder:
        model(given_to.pop("hidden_states"), 2, **given_to)

    (call,) = recorder.calls
    assert list(call.arguments) == [
        "hidden_states", "timestep", "image_rotary_emb[0]", "image_rotary_emb[1][sin]", "extra[ids]",
    ]  # fmt: skip
    assert call.arguments["timestep"] == 2
    assert call.tensors["image_rotary_emb[0]"].dtype == "bfloat16"
    assert not model._forward_pre_hooks


def test_recording_is_a_copy_of_the_bits(given_to):
    model, states = Denoiser(), given_to["hidden_states"]
    before = states.clone()
    with recorded_calls({"transformer": model}, Recorder(1)) as recorder:
        model(states, 1)
    states.zero_()

    assert torch.equal(recorder.calls[0].tensors["hidden_states"].values, before)


def test_sample_with_a_recorder_has_the_same_bits(healthy):
    session = GenmodelSession(Settings(candidates=(str(healthy),)))
    try:
        pipeline, probe = session.context(0).candidate, session.context(0).probe
        plain = pipeline.sample(probe)
        live = pipeline.diffusers
        recorder = Recorder(2, keep_last=True)
        with recorded_calls(pipeline.family.live_denoisers(live), recorder):
            recorded = pipeline.sample(probe, transformation="recorded")
        assert torch.equal(plain.latents, recorded.latents)
        assert [call.number for call in recorder.calls] == [0, probe.steps - 1]
        conditions_of(pipeline, probe)
        assert torch.equal(
            pipeline.sample(probe, transformation="after a broken-off run").latents, plain.latents
        )
        assert "encode" not in vars(live.vae)
    finally:
        session.close()


def test_pieces_are_found_by_what_does_not_change(healthy):
    session = GenmodelSession(Settings(candidates=(str(healthy),)))
    try:
        found = conditions_of(session.context(0).candidate, session.context(0).probe)
    finally:
        session.close()
    assert [(piece.place, piece.kind) for piece in found.pieces] == [
        ("hidden_states[channels 4:8]", "image"),
        ("encoder_hidden_states", "text"),
        ("image_rotary_emb[0]", "positions"),
        ("image_rotary_emb[1]", "positions"),
    ]


def test_pipeline_is_broken_off_where_enough_is_known():
    model, ran = Denoiser(), []

    def run():
        for step in range(5):
            model(torch.ones(1, 4), step)
            ran.append(step)

    live = SimpleNamespace(maybe_free_model_hooks=lambda: ran.append("freed"))
    recorder = Recorder(2, stop=True)
    assert record_pipeline(live, {"transformer": model}, recorder, run) is None
    assert ran == [0, "freed"]
    assert [call.arguments["timestep"] for call in recorder.calls] == [0, 1]


def wrapped_by_peft(model):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(target_modules=["to_q"]))


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "wrap", [lambda model: model, wrapped_by_peft, compiled], ids=["bare", "peft", "compiled"]
)
def test_wrapped_models_are_recorded_by_the_names_of_the_model(wrap):
    model = Denoiser()
    outer = wrap(model)
    assert innermost(outer) is model
    with recorded_calls({"transformer": outer}, Recorder(3)) as recorder:
        outer(hidden_states=torch.ones(1, 4), timestep=torch.ones(()))

    assert [list(call.arguments) for call in recorder.calls] == [["hidden_states", "timestep"]]


def test_class_is_watched_through_accelerate_and_peft_and_put_back():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps one precision for the process
    before = Denoiser.__dict__["forward"]
    recorder = Recorder(8, training_only=True)
    restore = watch_class(Denoiser, recorder)
    try:
        model = Accelerator(cpu=True, mixed_precision="bf16").prepare(wrapped_by_peft(Denoiser()))
        model(hidden_states=torch.ones(1, 4), timestep=torch.ones(()))
        with torch.no_grad():
            model(hidden_states=torch.ones(1, 4), timestep=torch.ones(()))
        assert "hidden_states" in inspect.signature(Denoiser.forward).parameters
    finally:
        restore()
        AcceleratorState._reset_state(reset_partial_state=True)
    assert len(recorder.calls) == 1
    assert Denoiser.__dict__["forward"] is before


def test_call_that_does_not_fit_raises_its_own_error_and_is_not_recorded():
    model = Denoiser()
    with (
        recorded_calls({"transformer": model}, Recorder(1)) as recorder,
        pytest.raises(TypeError, match="timestep"),
    ):
        model(torch.ones(1, 4))
    assert recorder.calls == []


def test_large_tensors_are_kept_as_a_sample(monkeypatch):
    monkeypatch.setattr(recording, "LARGEST_WHOLE", 100)
    tensor = torch.arange(1000.0)
    found = kept(tensor)

    assert (found.whole, found.shape, found.mean) == (False, (1000,), 499.5)
    assert torch.equal(found.values, tensor[::10])
    assert found.digest == kept(tensor.clone()).digest != kept(tensor + 1).digest


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
    st.one_of(st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=5)),
)
def test_calls_survive_being_written_and_read(tmp_path_factory, shape, dtype, plain):
    folder = tmp_path_factory.mktemp("calls")
    tensor = torch.randn(shape).to(dtype)
    arguments = {"a[0]": kept(tensor), "b": plain, "c": kept(torch.ones(1).expand(1))}
    write_call(Call("Denoiser", 3, arguments), folder / "17-3.safetensors")

    (call,) = read_calls(folder)
    assert (call.model, call.number, call.arguments["b"]) == ("Denoiser", 3, plain)
    found = call.arguments["a[0]"]
    assert isinstance(found, Recorded)
    assert (found.shape, found.dtype, found.digest) == (
        tuple(shape),
        arguments["a[0]"].dtype,
        arguments["a[0]"].digest,
    )
    assert found.values.dtype == dtype
    assert torch.equal(found.values, tensor)
