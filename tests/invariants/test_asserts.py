"""assert_same_weights: two pipelines or two modules, and nothing passes for want of a comparison."""

from __future__ import annotations

import copy as copies

import pytest
import torch

from pytest_genmodel import assert_same_weights
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.pipelines.overlay import overlay
from pytest_genmodel.pipelines.pipeline import Pipeline
from pytest_genmodel.pipelines.placement import Placement
from pytest_genmodel.training.lora import train_lora
from tests.editing import TO_Q, TRANSFORMER, VAE, edit_tensors

CONV = "decoder.conv_in.conv.weight"


def pipeline(folder) -> Pipeline:
    return Pipeline(open_checkpoint(folder, folder.name), Placement("cpu", "float32"))


def model() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 8))


def message(*arguments, **keywords) -> str:
    with pytest.raises(AssertionError) as raised:
        assert_same_weights(*arguments, **keywords)
    return str(raised.value)


def test_equal_pipelines_pass(copy, healthy):
    assert_same_weights(pipeline(copy), pipeline(healthy))


@pytest.mark.parametrize("names", ["transformer", ["transformer"], {"transformer"}, iter(["transformer"])])
def test_component_may_be_left_out_by_its_name_or_a_list_of_names(copy, healthy, names):
    edit_tensors(copy / TRANSFORMER, lambda tensors: tensors | {TO_Q: tensors[TO_Q] * 2})

    assert TO_Q in message(pipeline(copy), pipeline(healthy))
    assert_same_weights(pipeline(copy), pipeline(healthy), except_for=names)


def test_leaving_out_every_component_is_refused(copy, healthy):
    with pytest.raises(BadInputError, match=r"nothing is left to compare.*text_encoder, transformer, vae"):
        assert_same_weights(
            pipeline(copy), pipeline(healthy), except_for=["transformer", "vae", "text_encoder"]
        )


def test_unknown_component_is_refused(healthy):
    with pytest.raises(BadInputError, match=r"'unet'.*transformer"):
        assert_same_weights(pipeline(healthy), pipeline(healthy), except_for="unet")


def test_weights_that_one_side_lacks_are_a_difference_either_way(copy, healthy):
    (copy / VAE).unlink()

    assert "vae: the candidate has no weights" in message(pipeline(copy), pipeline(healthy))
    assert "vae: the reference has no weights" in message(pipeline(healthy), pipeline(copy))


def test_adapter_is_a_difference(healthy, tmp_path):
    lora = train_lora(healthy, lr=1e-2, steps=1, seed=0, output=tmp_path / "lora")
    reference = open_checkpoint(healthy, "reference")
    whole = overlay(open_checkpoint(lora, "candidate"), reference, tmp_path / "work")
    candidate = Pipeline(whole, Placement("cpu", "float32"))

    assert "only the candidate carries an adapter" in message(candidate, pipeline(healthy))
    assert_same_weights(candidate, pipeline(healthy), except_for="transformer")
    assert_same_weights(candidate, candidate)


def test_message_says_how_far_and_what_it_looks_like(copy, healthy):
    edit_tensors(copy / VAE, lambda tensors: tensors | {CONV: tensors[CONV] * 1.01})

    text = message(pipeline(copy), pipeline(healthy))

    assert f"vae: {CONV} differs: relative difference 0.01" in text
    assert "1.01" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.fill_(float("nan")), "of its values are NaN or Inf"),
        (lambda t: t[:1], "its shape is [1,"),
    ],
    ids=["nan", "shape"],
)
def test_message_is_sane_where_there_is_no_figure(copy, healthy, change, words):
    edit_tensors(copy / VAE, lambda tensors: tensors | {CONV: change(tensors[CONV])})

    assert words in message(pipeline(copy), pipeline(healthy))


def test_equal_modules_pass_and_so_does_a_cast_that_loses_nothing():
    assert_same_weights(model(), model())
    assert_same_weights(model().half().float(), model().half())


def test_worst_tensor_of_a_module_comes_first_with_what_it_looks_like():
    changed = model()
    with torch.no_grad():
        changed[0].weight.mul_(1.01)
        changed[2].weight.copy_(changed[2].weight.t().clone())
        changed[1].running_mean.add_(1)

    lines = message(changed, model()).splitlines()

    assert lines[0] == "the weights differ:"
    assert lines[1].startswith("  1.running_mean has other values: the reference is all zero")
    assert lines[2].startswith("  2.weight has other values: relative difference 1.")
    assert "axis 0 and axis 1 swapped" in lines[2]
    assert "1.01" in lines[3]


def test_many_changed_tensors_are_named_together():
    changed = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(20)))
    other = copies.deepcopy(changed)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(1)

    text = message(changed, other)

    assert "and 35 more tensors differ" in text
    assert len(text.splitlines()) == 8


def test_tensor_that_a_module_lacks_is_named():
    assert "bias is missing" in message(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2))


def test_modules_without_a_tensor_are_refused():
    with pytest.raises(BadInputError, match="nothing is left to compare"):
        assert_same_weights(torch.nn.ReLU(), torch.nn.ReLU())


def test_except_for_with_modules_is_refused():
    with pytest.raises(BadInputError, match="except_for names components of pipelines"):
        assert_same_weights(model(), model(), except_for="0")


def test_two_kinds_are_refused(healthy):
    with pytest.raises(BadInputError, match="not Pipeline and Sequential"):
        assert_same_weights(pipeline(healthy), model())


def test_message_ends_with_the_smallest_tolerance(copy, healthy):
    edit_tensors(copy / TRANSFORMER, lambda tensors: tensors | {TO_Q: tensors[TO_Q] + 0.5})
    edit_tensors(copy / VAE, lambda tensors: tensors | {CONV: tensors[CONV] + 0.25})
    ours, theirs = model(), model()
    with torch.no_grad():
        theirs[0].weight += 2.0
    other = model()
    other.register_buffer("more", torch.zeros(1))

    pipelines = message(pipeline(copy), pipeline(healthy)).splitlines()[-1]
    modules = message(ours, theirs).splitlines()[-1]

    assert pipelines.startswith("  would pass assert_close: close(atol=0.50")
    assert modules.startswith("  would pass assert_close: close(atol=2")
    assert message(ours, other).splitlines()[-1] == "  no tolerance would pass this"
