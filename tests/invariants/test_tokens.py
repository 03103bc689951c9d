"""Tokenizers compared as a pipeline uses them."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoTokenizer

from pytest_genmodel.invariants.tokens import LONGEST, TEXTS, shown, token_differences
from pytest_genmodel.invariants.verdict import Outcome
from tests.editing import edit_json

CONFIG = "tokenizer/tokenizer_config.json"


def setting(finding):
    return (finding.code, finding.location, finding.evidence["candidate"], finding.evidence["reference"])


@pytest.mark.parametrize(
    ("key", "value", "was"), [("padding_side", "left", "right"), ("model_max_length", 12, 16)]
)
def test_setting_that_acts_is_found_at_its_key(judged, copy, healthy, key, value, was):
    edit_json(copy / CONFIG, **{key: value})

    findings = judged("same_config", copy, healthy).findings

    assert [setting(finding) for finding in findings] == [
        ("GM403", f"tokenizer_config.json:{key}", value, was)
    ]


def test_other_special_token_is_found(judged, copy, healthy):
    edit_json(copy / CONFIG, pad_token="</s>")

    first = judged("same_config", copy, healthy).findings[0]

    assert setting(first) == ("GM403", "tokenizer_config.json:pad_token", 1, 0)


def test_text_that_is_cut_on_another_side_is_found(judged, copy, healthy):
    edit_json(copy / CONFIG, truncation_side="left")

    [finding] = judged("same_config", copy, healthy).findings

    assert (finding.code, finding.location) == ("GM403", "tokenizer/")
    assert len(finding.evidence["candidate"]) == 16
    assert len(finding.message) < 250


def test_saved_again_it_is_the_same(judged, copy, healthy):
    """transformers drops and adds keys, and writes other files, whenever it saves."""
    tokenizer = AutoTokenizer.from_pretrained(copy / "tokenizer")
    shutil.rmtree(copy / "tokenizer")
    tokenizer.save_pretrained(copy / "tokenizer")
    edit_json(copy / CONFIG, clean_up_tokenization_spaces=True, legacy=False, a_key_of_another_version=1)

    assert judged("same_config", copy, healthy).findings == ()
    assert judged("save_load_round_trip", copy).outcome is Outcome.PASSED


def test_saved_from_the_slow_class_it_is_the_same(judged, copy, healthy):
    edit_json(copy / CONFIG, tokenizer_class="T5TokenizerFast")

    assert judged("same_config", copy, healthy).findings == ()


@pytest.mark.parametrize("limit", [..., int(1e30)], ids=["none", "astronomic"])
def test_tokenizer_without_a_limit_is_filled_up_to_ours(copy, limit):
    edit_json(copy / CONFIG, model_max_length=limit)
    one, other = (AutoTokenizer.from_pretrained(copy / "tokenizer") for _ in range(2))
    other.truncation_side = "left"

    assert token_differences(one, one) == []
    [difference] = token_differences(other, one)
    assert difference.is_text
    assert len(difference.ours) == len(difference.theirs) == LONGEST


def test_tokenizer_without_a_pad_token_is_compared_by_its_ids(copy):
    one, other = (AutoTokenizer.from_pretrained(copy / "tokenizer") for _ in range(2))
    one.pad_token = other.pad_token = None

    assert token_differences(one, other) == []


def test_setting_that_saving_loses_is_found(judged, healthy, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    save = PreTrainedTokenizerBase.save_pretrained

    def save_padding_left(self, folder, *args, **kwargs):
        written = save(self, folder, *args, **kwargs)
        edit_json(type(healthy)(folder) / "tokenizer_config.json", padding_side="left")
        return written

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", save_padding_left)

    [finding] = judged("save_load_round_trip", healthy).findings

    assert (finding.code, finding.location) == ("GM603", "tokenizer_config.json:padding_side")
    assert finding.message == "padding_side was 'right' and comes back as 'left'"


def test_vocabulary_that_saving_changes_is_found(judged, healthy, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    save = PreTrainedTokenizerBase.save_pretrained

    def save_another_vocabulary(self, folder, *args, **kwargs):
        written = save(self, folder, *args, **kwargs)
        file = type(healthy)(folder) / "tokenizer.json"
        file.write_text(file.read_text().replace("red", "der"))
        return written

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", save_another_vocabulary)

    [finding] = judged("save_load_round_trip", healthy).findings

    assert (finding.code, finding.location) == ("GM603", "tokenizer/")
    assert repr(TEXTS[0]) in finding.message


def test_stub_is_still_told_from_a_tokenizer(judged, copy):
    """transformers builds one without a message where the vocabulary is gone."""
    config = json.loads((copy / CONFIG).read_text())
    shutil.rmtree(copy / "tokenizer")
    (copy / "tokenizer").mkdir()
    (copy / CONFIG).write_text(json.dumps(config))

    assert "GM107" in [finding.code for finding in judged("coverage", copy).findings]


def test_ids_are_shown_from_both_ends():
    assert shown([1, 2]) == "[1, 2]"
    assert shown(list(range(20))) == "[0, 1, 2, 3, 4, 5, ... 19]"
