"""Traces: what is seen, that nothing is left behind or changed, and where two of them part."""

from __future__ import annotations

import copy
import inspect
import weakref
from dataclasses import replace

import pytest
import torch

from pytest_genmodel.pipelines import parting
from pytest_genmodel.pipelines.parting import partings
from pytest_genmodel.pipelines.tracing import Event, Side, Trace, catch, make_room, trace
from pytest_genmodel.pipelines.watching import CallKey, arguments, bare, leaves, watched
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.tensors.fingerprint import Fingerprint, fingerprint
from tests.editing import TO_Q, TRANSFORMER, edit_tensors


@pytest.fixture(scope="module")
def context(healthy):
    session = GenmodelSession(Settings(candidates=(str(healthy),)))
    yield session.context(0)
    session.close()


@pytest.fixture(scope="module")
def probe(context):
    return context.probe.but(steps=2)


@pytest.fixture(scope="module")
def traced(context, probe):
    return trace(Side(context.candidate), probe)


def tops(found: Trace) -> list[str]:
    return [event.call.place for event in found.events if event.parent is None and not event.is_end]


def test_trace_holds_every_call_in_order(traced):
    step = ["scheduler:scale_model_input", "transformer", "scheduler:step"]

    assert tops(traced) == [
        *["text_encoder", "text_encoder", "scheduler:set_timesteps", "vae.encode"],
        *[*step, *step, "vae.decode"],
    ]
    assert sum(event.is_end for event in traced.events) == traced.calls == len(traced.events) / 2


def test_event_knows_its_step_its_parent_and_the_names_of_its_arguments(traced):
    events = [event for event in traced.events if event.call.path == "transformer_blocks.1.attn1.to_q"]
    [begin, end] = events[:2]

    assert (begin.step, begin.parent.path, begin.is_end) == (1, "transformer_blocks.1.attn1", False)
    assert ([path for path, _ in begin.values], [path for path, _ in end.values]) == (["input"], ["output"])
    assert {event.step for event in events} == {1, 2}
    assert {event.step for event in traced.events if event.call.component == "text_encoder"} == {0}
    denoiser = next(event for event in traced.events if event.call.place == "transformer")
    assert {"hidden_states", "image_rotary_emb[0]", "timestep"} <= {path for path, _ in denoiser.values}


def test_trace_holds_no_tensor(traced):
    values = [value for event in traced.events for _, value in event.values]

    assert {type(value) for value in values} == {str, Fingerprint}
    assert max(len(value.sketch) for value in values if isinstance(value, Fingerprint)) == 128


def test_two_traces_of_one_pipeline_are_equal(context, probe, traced):
    found = partings(trace(Side(context.candidate), probe), traced)

    assert (found.bits, found.far, found.compared) == (None, None, len(traced.events))


@pytest.mark.parametrize("until", [None, 1])
def test_pipeline_is_left_as_it_was(context, probe, until):
    live = context.candidate.diffusers
    before = context.candidate.sample(probe)

    trace(Side(context.candidate), probe, until)

    for part in live.components.values():
        if isinstance(part, torch.nn.Module):
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in part.modules())
            assert not {"encode", "decode", "forward"} & set(vars(part))
    assert not {"step", "set_timesteps", "add_noise"} & set(vars(live.scheduler))
    after = context.candidate.sample(probe, transformation=f"after a trace until {until}")
    assert torch.equal(before.latents, after.latents)
    assert torch.equal(before.frames, after.frames)


def test_hooks_come_off_when_the_pipeline_raises(context, probe, monkeypatch):
    live = context.candidate.diffusers
    monkeypatch.setattr(live.vae, "decode", lambda *args, **kwargs: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        trace(Side(context.candidate), probe)

    assert not any(m._forward_hooks for m in live.transformer.modules())
    assert "step" not in vars(live.scheduler)


def test_copy_of_a_watched_scheduler_is_its_own_and_unwatched(context):
    class Silent:
        seen = 0

        def enter(self, key, given):
            self.seen += 1

        def leave(self, key, gave):
            pass

    live, watcher = context.candidate.diffusers, Silent()
    with watched(live, watcher):
        twin = copy.deepcopy(live.scheduler)
        live.scheduler.set_timesteps(5)
        twin.set_timesteps(3)
        assert next(iter(inspect.signature(live.scheduler.set_timesteps).parameters)) == "num_inference_steps"

    assert (len(live.scheduler.timesteps), len(twin.timesteps), watcher.seen) == (5, 3, 1)


def test_trace_ends_after_the_step_that_was_asked_for(context, probe, traced):
    found = trace(Side(context.candidate), probe, 1)

    assert found.stopped
    assert tops(found)[-1] == "scheduler:step"
    assert found.events == traced.events[: len(found.events)]


def test_denoiser_can_be_left_out(context, probe):
    found = trace(Side(context.candidate), probe, inside_denoisers=False)

    assert {e.call.path for e in found.events if e.call.component == "transformer"} == {""}
    assert any(e.call.path.startswith("decoder.") for e in found.events)


def test_caught_tensors_are_those_of_the_trace(context, probe, traced):
    key = next(e.call for e in traced.events if e.call.path == "transformer_blocks.0.ff" and e.step == 2)

    found = catch(Side(context.candidate), probe, [(key, False), (key, True)])[key]

    begin, end = (e for e in traced.events if e.call == key)
    assert {path: fingerprint(value) for path, value in found.arguments.items()} == dict(begin.values)
    assert {path: fingerprint(value) for path, value in found.results.items()} == dict(end.values)


def test_one_side_leaves_before_the_other_is_loaded(healthy, copy):
    edit_tensors(copy / TRANSFORMER, lambda tensors: tensors | {TO_Q: 2 * tensors[TO_Q]})
    session = GenmodelSession(Settings(candidates=(str(copy),), reference=str(healthy)))
    context = session.context(0)
    ours, theirs = Side(context.candidate), Side(context.reference)
    trace(theirs, context.probe, 1)
    gone = weakref.ref(context.reference.component("transformer"))
    shared = context.reference.component("text_encoder")

    make_room(theirs, ours)

    assert gone() is None
    assert context.candidate.component("text_encoder") is shared
    session.close()


def test_leaves_of_whatever_is_handed_over():
    class Posterior:
        def __init__(self) -> None:
            self.mean = torch.zeros(2)

    given = {"a": [torch.ones(1), None], "b": (3, "x"), "c": Posterior()}

    found = dict(leaves("output", given))

    assert list(found) == [
        *["output[a][0]", "output[a][1]", "output[b][0]", "output[b][1]", "output[c]", "output[c].mean"]
    ]
    assert (found["output[a][1]"], found["output[b][0]"], found["output[c]"]) == ("None", "3", "Posterior")
    assert list(dict(arguments(("x",), (1, 2), {"y": 3, "return_dict": True}))) == ["x", "args[1]", "y"]


def test_wrappers_do_not_change_a_path():
    assert bare("base_model.model.blocks.0.to_q") == bare("_orig_mod.module.blocks.0.to_q") == "blocks.0.to_q"
    assert bare("module") == bare("base_model") == bare("base_model.model") == ""


def event(path, value, *, end=False, number=1, parent=None, component="transformer", step=1):
    value = fingerprint(value) if isinstance(value, torch.Tensor) else value
    key = CallKey(component, path, "forward", number)
    return Event(key, end, step, (("output" if end else "input", value),), parent)


def run(*events):
    return Trace(list(events))


X = torch.linspace(-1, 1, 96)
TOP = CallKey("transformer", "", "forward", 1)


def test_module_with_equal_arguments_and_other_results_is_the_place():
    theirs = run(event("", X), event("a", X, parent=TOP), event("a", X, end=True, parent=TOP))
    ours = run(*theirs.events[:2], event("a", 2 * X, end=True, parent=TOP))

    found = partings(ours, theirs).far

    assert (found.kind, found.owner.path, found.agreed, found.given) == ("results", "a", 2, 0)
    assert found.distance == pytest.approx(1, rel=0.01)


def test_other_arguments_are_the_fault_of_the_code_around():
    theirs = run(event("", X), event("a", X, parent=TOP), event("a", X, end=True, parent=TOP))
    theirs.events.append(event("b", X, parent=TOP))
    ours = run(*theirs.events[:3], event("b", X + 1, parent=TOP))

    found = partings(ours, theirs).far

    assert (found.kind, found.owner, found.before.call.path) == ("arguments", TOP, "a")
    assert partings(run(event("", X + 1)), run(event("", X))).far.owner is None


def test_call_of_one_side_alone_is_passed_over_and_told():
    theirs = run(event("", X), event("a", X, parent=TOP), event("b", X, parent=TOP))
    ours = run(
        theirs.events[0], theirs.events[1], event("lora", X, parent=TOP), event("b", 2 * X, parent=TOP)
    )

    found = partings(ours, theirs).far

    assert (found.owner, found.alone) == (TOP, (("candidate", "lora"),))
    assert partings(run(*ours.events[:3], theirs.events[2]), theirs).far is None


def test_other_course_is_told():
    a, b = event("a", X), event("b", X)
    again = replace(a, call=a.call._replace(number=2))

    found = partings(run(a, b, again), run(a, again, b)).far

    assert (found.kind, found.ours.call.path, found.theirs.call.path) == ("course", "b", "a")
    shorter = partings(run(a, b), run(a, b, again)).far
    assert (shorter.kind, shorter.ours, shorter.theirs) == ("course", None, again)
    assert partings(Trace([a, b], stopped=True), run(a, b, again)).far is None


def test_rounding_is_told_from_what_is_far():
    rounded = X * (1 + 1e-6)
    theirs = run(event("a", X), event("a", X, end=True), event("b", X), event("b", X, end=True))
    ours = run(theirs.events[0], event("a", rounded, end=True), event("b", rounded))
    ours.events.append(event("b", 3 * X, end=True))

    found = partings(ours, theirs)

    assert (found.bits.owner.path, found.far.owner.path) == ("a", "b")
    assert 0 < found.far.given < 1e-5
    assert partings(run(*ours.events[:3]), run(*theirs.events[:3])).far is None


def test_rounding_everywhere_costs_one_walk_through_the_traces(monkeypatch):
    """Of thousands of events that differ by rounding one is placed, and the one that is far."""
    placed, original = [], parting._placed
    monkeypatch.setattr(parting, "_placed", lambda *args: placed.append(args) or original(*args))
    theirs = [event(f"{number}", X) for number in range(50)]
    ours = [event(f"{number}", X * (1 + 1e-6)) for number in range(49)] + [event("49", 3 * X)]

    found = partings(run(*ours), run(*theirs))

    assert (found.bits.event.call.path, found.far.event.call.path, found.far.agreed) == ("0", "49", 49)
    assert len(placed) == 2


def test_renamed_parameters_are_paired_by_place():
    theirs = event("a", X)
    ours = replace(theirs, values=(("x", theirs.values[0][1]),))
    fewer = replace(theirs, values=(*theirs.values, ("eta", "0.0")))

    assert partings(run(ours), run(theirs)).bits is None
    assert partings(run(ours), run(fewer)).bits is None
    assert partings(run(ours), run(replace(theirs, values=(("x", "3"),)))).far is not None
