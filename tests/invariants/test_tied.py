"""Tied weights: which name a file stores makes no difference, and what the library would load does."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.checkpoints.component import Component
from pytest_genmodel.checkpoints.diff import compare_components
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines import equality
from pytest_genmodel.training.full import train_full
from tests.editing import edit_tensors

ENCODER = "text_encoder/model.safetensors"
SHARED, ALIAS = "shared.weight", "encoder.embed_tokens.weight"


def store_as(*names: str):
    """Store the tied tensor under these names."""

    def change(tensors):
        tied = tensors.pop(SHARED)
        return tensors | {name: tied.clone() for name in names}

    return change


@pytest.fixture
def second(healthy, tmp_path):
    import shutil

    return shutil.copytree(healthy, tmp_path / "second")


@pytest.mark.parametrize("theirs", [(SHARED,), (ALIAS,), (SHARED, ALIAS)], ids=["shared", "alias", "both"])
@pytest.mark.parametrize("ours", [(SHARED,), (ALIAS,), (SHARED, ALIAS)], ids=["shared", "alias", "both"])
def test_any_name_of_a_tied_tensor_is_the_same_model(judged, copy, second, ours, theirs):
    edit_tensors(copy / ENCODER, store_as(*ours))
    edit_tensors(second / ENCODER, store_as(*theirs))

    verdict = judged("same_weights", copy, second, expect="identical")

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


@pytest.mark.parametrize("kept", [(ALIAS,), (SHARED, ALIAS)], ids=["alias", "both"])
def test_trainer_that_stores_another_name_of_a_tied_tensor_altered_nothing(judged, healthy, kept):
    def trainer(reference, *, lr, steps, seed, output):
        train_full(reference, lr=lr, steps=steps, seed=seed, output=output)
        edit_tensors(output / ENCODER, store_as(*kept))
        return output

    for name in ("zero_lr_identity", "learning_moves"):
        assert judged(name, healthy, parameters={"trainer": trainer}).findings == ()


def test_changed_value_under_another_name_is_found(judged, copy, healthy):
    edit_tensors(copy / ENCODER, store_as(ALIAS))
    edit_tensors(copy / ENCODER, lambda tensors: tensors | {ALIAS: tensors[ALIAS] * 2})

    [finding] = judged("same_weights", copy, healthy).findings

    assert (finding.code, finding.location) == ("GM301", ALIAS)


@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_two_stored_names_that_differ_are_a_difference_on_either_side(judged, copy, healthy, side):
    """transformers unties them then: each name is loaded from the tensor of that name."""
    from transformers import T5EncoderModel

    edit_tensors(copy / ENCODER, lambda tensors: tensors | {ALIAS: tensors[SHARED] + 1})
    model = T5EncoderModel.from_pretrained(copy / "text_encoder")
    assert torch.equal(model.encoder.embed_tokens.weight, model.shared.weight + 1)

    ours, theirs = (copy, healthy) if side == "candidate" else (healthy, copy)
    [finding] = judged("same_weights", ours, theirs).findings

    assert (finding.code, finding.location) == ("GM301", ALIAS)
    assert finding.evidence["tensors"] == [ALIAS]


def test_neither_name_is_a_missing_tensor(judged, copy, healthy):
    edit_tensors(copy / ENCODER, store_as())

    [finding] = judged("same_weights", copy, healthy).findings

    assert (finding.code, finding.location) == ("GM207", SHARED)


def test_without_ties_every_name_stands_for_itself(copy, healthy):
    edit_tensors(copy / ENCODER, store_as(ALIAS))
    ours, theirs = (
        Component("text_encoder", root / "text_encoder", "transformers", "T5EncoderModel")
        for root in (copy, healthy)
    )

    bare = compare_components(ours, theirs)
    tied = compare_components(ours, theirs, [(SHARED, ALIAS)])

    assert (bare.missing, bare.extra) == ([SHARED], [ALIAS])
    assert tied.is_empty
    assert tied.compared == bare.compared + 1
    assert tied.counterparts[ALIAS] == (ALIAS, SHARED)


def test_ties_are_only_worked_out_where_names_differ(judged, copy, healthy, monkeypatch):
    monkeypatch.setattr(equality, "stored_ties", lambda component: pytest.fail("asked for ties"))

    assert judged("same_weights", copy, healthy).findings == ()


def test_component_of_which_no_model_can_be_made_is_compared_by_its_names(judged, copy, healthy):
    from tests.editing import edit_json

    edit_tensors(copy / ENCODER, store_as(ALIAS))
    edit_json(copy / "text_encoder/config.json", num_heads="many")

    codes = [finding.code for finding in judged("same_weights", copy, healthy).findings]

    assert codes == ["GM207", "GM207"]
