"""The public strategies: what they promise of what they draw."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_genmodel import strategies
from pytest_genmodel.errors import BadInputError, MissingExtraError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.families import family_of
from pytest_genmodel.pipelines.resolve import resolve
from pytest_genmodel.strategies import Variation, faults, probes, tensors, variations
from pytest_genmodel.tensors import bitwise, compare, digest

FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(deadline=None, derandomize=True, database=None)
@given(st.data(), st.sampled_from(["float32", "float16", "bfloat16", "float64"]))
def test_tensors_have_the_dtype_and_are_themselves(data, dtype):
    tensor = data.draw(tensors(dtype))

    assert str(tensor.dtype) == f"torch.{dtype}"
    assert tensor.numel() <= 64
    assert compare(tensor, tensor.clone(), bitwise).passed
    assert digest(tensor) == digest(tensor.clone())


@settings(deadline=None, derandomize=True, database=None)
@given(tensors(shape=(2, 3), special=False))
def test_tensors_take_a_shape_and_leave_special_values_out(tensor):
    assert tensor.shape == (2, 3)
    assert bool(tensor.isfinite().all())


def test_tensors_draw_special_values():
    from hypothesis import find

    for wanted in (torch.isnan, torch.isinf, lambda t: (t == 0) & torch.signbit(t)):
        assert find(tensors("float16"), lambda t, wanted=wanted: bool(wanted(t).any())).dtype == torch.float16


@FEW
@given(probe=probes("tiny:cogvideox-i2v", most_steps=3))
def test_probes_are_ones_that_the_family_can_make(probe, healthy):
    checkpoint = resolve(str(healthy), healthy)
    family_of(checkpoint).check_size(checkpoint, height=probe.height, width=probe.width, frames=probe.frames)

    assert 2 <= probe.steps <= 3
    assert torch.equal(probe.image, (probe.image * 255).round() / 255)
    assert probe.but(seed=1).key == probe.but(seed=1).key


@FEW
@given(variation=variations())
def test_no_check_minds_a_healthy_variation(variation, healthy, judged, tmp_path_factory):
    varied = variation.apply(healthy, tmp_path_factory.mktemp("varied") / "model")

    for name in ("coverage", "same_weights"):
        verdict = judged(name, varied, healthy, level="static")
        assert (verdict.outcome, verdict.findings) in (
            (Outcome.PASSED, ()),
            (Outcome.SKIPPED, ()),
        ), (variation, name, verdict.findings, verdict.reason)


def test_a_variation_writes_what_it_says(healthy, tmp_path):
    varied = Variation(shards=2, order=3, variant="fp16").apply(healthy, tmp_path / "model")

    assert sorted(path.name for path in (varied / "transformer").glob("*pytorch*")) == [
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    ]


@FEW
@given(fault=faults(level="static"))
def test_faults_are_of_the_kind_and_level(fault):
    assert (fault.kind, fault.level) == ("checkpoint", "static")


def test_faults_of_no_kind_are_refused():
    with pytest.raises(BadInputError, match=r"no fault"):
        faults(kind="nothing")


def test_without_hypothesis_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(strategies, "find_spec", lambda name: None)
    monkeypatch.delitem(vars(strategies), "probes", raising=False)

    with pytest.raises(MissingExtraError, match=r"pytest-genmodel\[hypothesis\]"):
        strategies.probes  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    import subprocess

    code = "import sys, pytest_genmodel.strategies; print({'torch', 'hypothesis'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
    )
