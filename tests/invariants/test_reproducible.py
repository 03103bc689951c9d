"""reproducible: healthy pipelines pass; what remembers, races, mixes rows or iterates over sets is told."""

from __future__ import annotations

import os

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers import CogVideoXImageToVideoPipeline as Live
from transformers import T5EncoderModel

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny

NAME = "reproducible"


def codes(verdict):
    return [finding.code for finding in verdict.findings]


@pytest.mark.parametrize("name", tiny.names())
def test_holds_for_every_family(judged, name):
    verdict = judged(NAME, f"tiny:{name}")

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert ("batch" in verdict.measurements) != ("batch_error_over_limit" in verdict.measurements)


def test_says_which_batch_was_not_judged_and_why(judged):
    assert "first row's generator" in judged(NAME, "tiny:ltx-condition").measurements["batch"]


def test_scheduler_that_keeps_state_between_calls_is_found(judged, healthy, monkeypatch):
    step = CogVideoXDDIMScheduler.step

    def keeping(self, model_output, *args, **kwargs):
        most = getattr(self, "most", 0)
        self.most = max(most, self.num_inference_steps)
        scale = 1.01 if most > self.num_inference_steps else 1.0
        return step(self, model_output * scale, *args, **kwargs)

    monkeypatch.setattr(CogVideoXDDIMScheduler, "step", keeping)

    [finding] = judged(NAME, healthy).findings

    assert (finding.code, finding.location) == ("GM506", "step 1")


def test_cache_that_is_keyed_by_shape_is_found(judged, healthy, monkeypatch):
    forward = T5EncoderModel.forward

    def cached(self, input_ids, *args, **kwargs):
        store = self.__dict__.setdefault("store", {})
        if input_ids.shape not in store and bool((input_ids[0] > 1).any()):
            store[input_ids.shape] = forward(self, input_ids, *args, **kwargs)
            return store[input_ids.shape]
        if input_ids.shape in store and bool((input_ids[0] > 1).any()):
            return store[input_ids.shape]
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(T5EncoderModel, "forward", cached)

    [finding, *_] = judged(NAME, healthy).findings

    assert finding.code == "GM506"
    assert "cache" in finding.cause


def test_one_generator_for_the_whole_batch_is_found(judged, healthy, monkeypatch):
    prepare = Live.prepare_latents

    def one(self, image, batch_size=1, *args, generator=None, **kwargs):
        if isinstance(generator, list):
            generator = [torch.Generator("cpu").manual_seed(generator[0].initial_seed()) for _ in generator]
        args = [generator if isinstance(given, list) else given for given in args]
        args = [
            [torch.Generator("cpu").manual_seed(given[0].initial_seed()) for _ in given]
            if isinstance(given, list)
            else given
            for given in args
        ]
        return prepare(
            self, image, batch_size, *args, **({"generator": generator} if generator else {}), **kwargs
        )

    monkeypatch.setattr(Live, "prepare_latents", one)

    [finding] = judged(NAME, healthy).findings

    assert (finding.code, finding.location) == ("GM509", "step 1")


def test_sum_that_depends_on_the_threads_is_found(judged, healthy, monkeypatch):
    forward = CogVideoXTransformer3DModel.forward

    def racing(self, hidden_states, *args, **kwargs):
        return forward(self, hidden_states * (1 + 1e-3 * (torch.get_num_threads() > 1)), *args, **kwargs)

    monkeypatch.setattr(CogVideoXTransformer3DModel, "forward", racing)

    verdict = judged(NAME, healthy)

    assert codes(verdict) == ["GM508"]


def test_cannot_judge_where_the_control_fails(judged, healthy, monkeypatch):
    step = CogVideoXDDIMScheduler.step
    monkeypatch.setattr(
        CogVideoXDDIMScheduler,
        "step",
        lambda self, out, *a, **k: step(self, out + torch.rand(()) * 0.1, *a, **k),
    )

    verdict = judged(NAME, healthy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "'same again' fails" in verdict.reason


def test_a_fresh_process_gives_the_same_bits(judged, healthy):
    verdict = judged(NAME, healthy, level="full", steps=2, frames=9)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert verdict.measurements["fresh_process"] == "the same bits"


PATCH = """
import importlib.abc, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "pytest_genmodel.transformations.fresh_patch" and name == "safetensors.torch":
            sys.meta_path.remove(self)
            from torch.nn import Linear
            forward = Linear.forward
            factor = 1 + 1e-3 * {next(iter({"a", "b", "c", "d", "e", "f", "g", "h"})): ord(min(
                next(iter({"a", "b", "c", "d", "e", "f", "g", "h"})), "z"))}.popitem()[1]
            Linear.forward = lambda self, x: forward(self, x) * factor
        return None

sys.meta_path.insert(0, Watch())
"""


def test_order_of_a_set_is_found(judged, healthy, tmp_path, monkeypatch):
    """A patch that each new process gets, and this one has not; it scales by the first element of a set."""
    (tmp_path / "sitecustomize.py").write_text(PATCH)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    [finding] = judged(NAME, healthy, level="full", steps=2, frames=9).findings

    assert (finding.code, finding.location) == ("GM507", "step 1")
    assert "order of a set" in finding.cause


def test_fresh_process_that_breaks_off_is_no_pass(judged, healthy, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.exit('nothing here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    verdict = judged(NAME, healthy, level="full", steps=2, frames=9)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "nothing here" in verdict.reason or "status" in verdict.reason
