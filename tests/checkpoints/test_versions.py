"""Files of two versions of a library, which spell names otherwise, are compared name by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import compare_components
from pytest_genmodel.checkpoints.versions import spelled_as
from pytest_genmodel.invariants.coverage import _at_rest

CHANGED = "encoder.layers.0.mlp.fc1.weight"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny CLIP text model with and without the wrapper's prefix, as transformers 5.5 and 5.6 name its tensors."""
    from transformers import CLIPTextConfig, CLIPTextModel

    root = tmp_path_factory.mktemp("clip")
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    CLIPTextModel(config).save_pretrained(root / "saved")
    tensors = {
        n.removeprefix("text_model."): t for n, t in load_file(root / "saved/model.safetensors").items()
    }
    for name, prefix in (("bare", ""), ("wrapped", "text_model.")):
        (root / name).mkdir()
        (root / name / "config.json").write_text((root / "saved/config.json").read_text())
        save_file({f"{prefix}{n}": t for n, t in tensors.items()}, root / name / "model.safetensors")
    return root


def component(folder):
    [name] = json.loads((folder / "config.json").read_text())["architectures"]
    return Component("text_encoder", folder, "transformers", name)


@pytest.mark.parametrize("pair", [("bare", "wrapped"), ("wrapped", "bare"), ("bare", "bare")])
def test_the_same_weights_in_another_spelling_are_the_same(folders, pair):
    ours, theirs = (component(folders / name) for name in pair)

    difference = compare_components(ours, theirs)

    assert difference.is_empty
    assert difference.compared == len(theirs.weights.tensors)


@pytest.mark.parametrize("name", ["bare", "wrapped"])
def test_either_spelling_fits_the_installed_class(folders, name):
    assert list(_at_rest(component(folders / name))) == []


def test_a_change_is_found_in_another_spelling(folders, tmp_path):
    tensors = load_file(folders / "bare/model.safetensors")
    tensors[CHANGED] = tensors[CHANGED] * 2
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folders / "bare/config.json").read_text())

    difference = compare_components(component(tmp_path), component(folders / "wrapped"))

    assert list(difference.changed) == [f"text_model.{CHANGED}"]
    assert torch.equal(difference.ours.read(f"text_model.{CHANGED}"), tensors[CHANGED])


def test_names_that_a_prefix_does_not_explain_stay_as_they_are(folders):
    weights = component(folders / "bare").weights

    assert spelled_as({"blocks.0.weight"}, weights) is weights
    assert spelled_as(weights.tensors, weights) is weights
