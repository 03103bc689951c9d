"""Families are found by their modules, weigh nothing until they are used, and say what they have to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.families import FAMILIES, UnknownFamilyError, family_of
from pytest_genmodel.pipelines.families.cogvideox import CogVideoX
from pytest_genmodel.pipelines.library import class_named
from pytest_genmodel.pipelines.resolve import resolve
from pytest_genmodel.pipelines.sampling import NoStepsError, run_pipeline
from tests.editing import drop_tensors


def test_to_know_the_families_imports_nothing_heavy():
    heavy = "{'torch', 'diffusers', 'numpy'}"
    code = f"import sys, pytest_genmodel.pipelines.families; print({heavy} & sys.modules.keys())"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "set()"


def test_each_class_belongs_to_one_family_and_is_in_the_installed_diffusers():
    classes = [name for family in FAMILIES for name in family.pipeline_classes]

    assert len(classes) == len(set(classes))
    assert all(class_named("diffusers", name).__name__ == name for name in classes)


def test_names_of_families_are_their_own_and_each_says_where_the_image_enters():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert all(family.title and family.image_enters and family.is_known for family in FAMILIES)


@pytest.mark.parametrize("name", tiny.names())
def test_each_tiny_pipeline_is_of_a_known_family(name, tmp_path):
    checkpoint = resolve(f"tiny:{name}", tmp_path)

    family = family_of(checkpoint)

    assert family.is_known
    assert set(family.needed(checkpoint)) <= checkpoint.components.keys()
    assert list(family.contradictions(checkpoint)) == []


def checkpoint_of(pipeline_class, **components):
    return SimpleNamespace(spec="run-17", pipeline_class=pipeline_class, components=components)


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        (checkpoint_of("MyOwnPipeline", transformer=None), "MyOwnPipeline is no pipeline of the installed"),
        (checkpoint_of("LTXLatentUpsamplePipeline", vae=None), "that has a transformer or a unet"),
        (checkpoint_of("UNet2DConditionModel", unet=None), "UNet2DConditionModel is no pipeline"),
        (checkpoint_of(None), "this is no pipeline"),
        (checkpoint_of("WanImage2VideoPipeline", transformer=None), "the nearest is WanImageToVideoPipeline"),
    ],
)
def test_what_is_no_pipeline_or_has_no_denoiser_is_refused(checkpoint, says):
    with pytest.raises(UnknownFamilyError, match=says):
        family_of(checkpoint)


def test_denoisers_are_those_that_are_there_the_main_one_first():
    family = family_of(checkpoint_of("WanImageToVideoPipeline"))

    assert family.denoisers(["vae", "transformer"]) == ("transformer",)
    assert family.denoisers(["transformer_2", "transformer"]) == ("transformer", "transformer_2")


def test_steps_of_different_shapes_are_laid_flat():
    family = CogVideoX()
    short, long = torch.ones(1, 2), torch.full((1, 3), 2.0)

    assert family.stacked([short, short]).shape == (2, 1, 2)
    assert family.stacked([short, long]).tolist() == [[1, 1, 0], [2, 2, 2]]


class Silent:
    """A pipeline without a callback, whose scheduler is stepped or not."""

    def __init__(self, steps):
        self.scheduler = SimpleNamespace(step=lambda noise, t, latents, return_dict=False: (latents + 1,))
        self.components = {}
        self.steps = steps

    def set_progress_bar_config(self, **_):
        pass

    def __call__(self, generator=None, output_type="pt"):
        latents = torch.zeros(1, 2)
        for step in range(self.steps):
            latents = self.scheduler.step(latents, step, latents)[0]
        return {"frames": torch.zeros(1, 3, 3, 4, 4)}


class Plain(CogVideoX):
    def call_arguments(self, checkpoint, probe):
        return {}


def run_silent(pipeline):
    probe = SimpleNamespace(seed=0, steps=2)
    return run_pipeline(pipeline, Plain(), None, probe, "cpu", lambda *_: None)


def test_without_a_callback_the_scheduler_is_watched_and_left_as_it_was():
    pipeline = Silent(2)
    step = pipeline.scheduler.step

    sample = run_silent(pipeline)

    assert sample.latents.tolist() == [[[1, 1]], [[2, 2]]]
    assert sample.frames.shape == (3, 3, 4, 4)
    assert pipeline.scheduler.step is step


def test_a_sample_of_which_no_step_was_seen_is_none():
    with pytest.raises(NoStepsError, match="no step of it was seen"):
        run_silent(Silent(0))


def test_each_family_and_each_tiny_pipeline_is_on_the_page():
    page = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")

    for name in (*tiny.names(), *(known for family in FAMILIES for known in family.pipeline_classes)):
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("name", tiny.names())
def test_files_of_every_family_fit_the_model_that_is_not_loaded(judged, folders, name):
    verdict = judged("coverage", folders[name], level="static")

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


@pytest.mark.parametrize("name", ["hunyuan-i2v", "ltx2-i2v"])
def test_tensor_that_is_missing_under_a_name_of_an_older_transformers_is_found(judged, copied, name):
    folder = copied(name)
    drop_tensors(
        folder / "text_encoder/model.safetensors", "language_model.model.layers.1.self_attn.k_proj.weight"
    )

    [finding] = judged("coverage", folder, level="static").findings

    assert (finding.code, finding.component) == ("GM201", "text_encoder")
    assert finding.location == "model.language_model.layers.1.self_attn.k_proj.weight"
