"""Which files a process is seen to write what it trained to."""

from __future__ import annotations

import copy

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from pytest_genmodel.training.observer import observe_optimizers


def trained_and(save):
    """Take a step on a layer, have `save` save it, and give what was seen by the files' names."""
    layer = torch.nn.Linear(4, 4)
    with observe_optimizers() as observed:
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        layer(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        save(layer)
    return {file.rpartition("/")[2]: trained for file, trained in observed.saves.items()}


@pytest.mark.parametrize(
    ("what", "trained"),
    [
        (lambda layer: layer.state_dict(), True),
        (lambda layer: {"step": 3, "model": [layer.state_dict()]}, True),
        (lambda layer: copy.deepcopy(layer).state_dict(), False),
        (lambda layer: {"step": 3}, False),
    ],
)
def test_torch_file_is_seen(tmp_path, what, trained):
    assert trained_and(lambda layer: torch.save(what(layer), tmp_path / "a.pt")) == {"a.pt": trained}


def test_torch_file_is_seen_by_the_name_of_an_open_one(tmp_path):
    def save(layer):
        with (tmp_path / "a.pt").open("wb") as stream:
            torch.save(layer.state_dict(), stream)

    assert trained_and(save) == {"a.pt": True}


@pytest.mark.parametrize("function", [save_file, lambda *a: safetensors.torch.save_file(*a)])
@pytest.mark.parametrize("copied", [False, True])
def test_safetensors_file_is_seen_whoever_imported_the_function(tmp_path, function, copied):
    def save(layer):
        tensors = {name: t.clone() if copied else t for name, t in layer.state_dict().items()}
        function(tensors, str(tmp_path / "a.safetensors"))

    assert trained_and(save) == {"a.safetensors": not copied}


def test_last_save_of_a_file_counts(tmp_path):
    def save(layer):
        save_file(layer.state_dict(), tmp_path / "a.safetensors")
        save_file(copy.deepcopy(layer).state_dict(), tmp_path / "a.safetensors")

    assert trained_and(save) == {"a.safetensors": False}


def test_nothing_is_left_behind():
    before = (torch.save, torch.serialization.save, safetensors.torch.serialize_file)

    trained_and(lambda layer: None)

    assert before == (torch.save, torch.serialization.save, safetensors.torch.serialize_file)


def test_save_that_fails_fails_as_ever(tmp_path):
    with pytest.raises(safetensors.SafetensorError):
        trained_and(lambda layer: save_file(layer.state_dict(), tmp_path / "no" / "such" / "folder"))
    with pytest.raises(TypeError):
        trained_and(lambda layer: torch.save(None))
