"""Neutral steps in any order: healthy models survive, what breaks one is shrunk to the shortest sequence."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from diffusers import CogVideoXImageToVideoPipeline as Live

from pytest_genmodel.strategies import NeutralMachine, shortest_sequence
from pytest_genmodel.transformations.known import KNOWN, NEW, RANDOM
from pytest_genmodel.transformations.sequences import BrokenModelError
from pytest_genmodel.transformations.shortest import broken_by, makes_sense, shortened

TINY = "tiny:cogvideox-i2v"
FUSE, UNFUSE, UNLOAD, SLICE = (("fuse", {}), ("unfuse", {}), ("unload", {}), ("slice", {}))


def test_healthy_model_survives():
    assert shortest_sequence(examples=3, steps=5) is None


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_defect_is_still_there_and_is_the_shortest(name):
    """Where this fails the library was mended: take the entry out, and the machine goes there."""
    *before, _ = KNOWN[name].steps

    assert broken_by(TINY, before) is None
    assert broken_by(TINY, KNOWN[name].steps) is not None


@pytest.mark.parametrize(
    "steps",
    [
        ("add_adapter", "fuse", "unfuse", "fuse", "unfuse"),
        ("add_adapter", "disable", "fuse", "unfuse", "enable"),
        ("add_adapter", "disable", "deepcopy", "enable", "unload"),
        ("add_adapter", "fuse", "from_pipe", "unfuse", "train_at_zero"),
        ("fuse_qkv", "save_and_reload", "float64_and_back", "tile", "slice", "train_at_zero"),
    ],
)
def test_sequence_that_must_not_matter(steps):
    assert (
        broken_by(TINY, [(name, {"kind": "random"} if name == "add_adapter" else {}) for name in steps])
        is None
    )


def test_fault_is_shrunk_to_the_shortest_sequence_and_printed_as_a_test(monkeypatch, tmp_path):
    """Tiling that is never switched off takes two steps to matter: on, and a decoder that minds."""
    enable = AutoencoderKLCogVideoX.enable_slicing

    def enabled(self):
        enable(self)
        self.scarred = getattr(self, "scarred", 0) + 1
        if self.scarred == 2:
            self.decoder.conv_out.conv.bias.data += 0.5

    monkeypatch.setattr(AutoencoderKLCogVideoX, "enable_slicing", enabled)

    class OnlySlices(NeutralMachine):
        """Few rules, so that it is found in a few examples."""

    for rule in (
        "save_and_reload",
        "from_pipe",
        "fuse_qkv",
        "train_at_zero",
        "add_adapter",
        "float64_and_back",
    ):
        setattr(OnlySlices, rule, None)

    text = shortest_sequence(OnlySlices, examples=10, steps=6)

    assert text is not None
    assert "vae.decoder.conv_out.conv.bias has other values" in text
    assert text.count("    model.") == text.count("model.slice()") == 2
    (tmp_path / "test_pasted.py").write_text(text.partition("\n\n")[2])
    spec = importlib.util.spec_from_file_location("test_pasted", tmp_path / "test_pasted.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["test_pasted"] = module
    spec.loader.exec_module(module)
    with pytest.raises(BrokenModelError, match=r"conv_out"):
        module.test_neutral_sequence()


def test_weight_that_a_step_changes_is_named(monkeypatch):
    to = Live.to

    def lossy(self, *args, **kwargs):
        self.transformer.proj_out.weight.data = self.transformer.proj_out.weight.data.bfloat16().float()
        return to(self, *args, **kwargs)

    monkeypatch.setattr(Live, "to", lossy)

    assert "transformer.proj_out.weight has other values" in broken_by(TINY, [("float64_and_back", {})]).what


def test_adapter_that_acts_after_its_unloading_is_found(monkeypatch):
    monkeypatch.setattr(CogVideoXTransformer3DModel, "unload_lora", lambda self: None)
    monkeypatch.setattr(Live, "unload_lora_weights", lambda self: None)

    assert "are off by" in broken_by(TINY, [("add_adapter", {"kind": "random"}), ("unload", {})]).what


def test_steps_that_are_not_needed_are_left_out():
    long = broken_by(TINY, [SLICE, RANDOM, SLICE, FUSE, UNFUSE, FUSE, UNLOAD])

    assert shortened(long).steps == (RANDOM, FUSE, UNLOAD)


@pytest.mark.parametrize(
    "steps", [[FUSE], [RANDOM, UNFUSE], [RANDOM, NEW], [RANDOM, FUSE, FUSE], [NEW, UNLOAD, UNLOAD]]
)
def test_steps_without_what_they_work_on_make_no_sense(steps):
    assert not makes_sense(steps)
