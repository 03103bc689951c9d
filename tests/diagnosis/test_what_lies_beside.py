"""What a configuration states of its file, and adapters below the one that is read."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.audit.subject import write_adapter
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.diagnosis.at_rest import findings_at_rest
from pytest_genmodel.diagnosis.at_rest.adapters_below import adapters_below
from pytest_genmodel.diagnosis.at_rest.stated import stated_dtype
from pytest_genmodel.pipelines import tiny
from tests.editing import edit_json

FILE = "pytorch_lora_weights.safetensors"
NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def encoder(folder):
    return open_checkpoint(folder, str(folder)).components["text_encoder"]


@pytest.fixture
def saved(copy):
    """The text encoder in a dtype, and what its configuration says."""

    def save(dtype, says, key="dtype", file="model.safetensors"):
        folder = copy / "text_encoder"
        tensors = load_file(folder / "model.safetensors")
        save_file({n: t.to(dtype) for n, t in tensors.items()}, folder / file, {"format": "pt"})
        edit_json(folder / "config.json", **{"dtype": None, key: says})
        return encoder(copy)

    return save


@pytest.mark.parametrize(
    ("dtype", "says"),
    [(torch.float32, "float16"), (torch.float32, "bfloat16"), (torch.bfloat16, "float16")],
)
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_narrower_dtype_than_the_file_is_found(saved, healthy, dtype, says, key):
    base = encoder(healthy)

    [finding] = stated_dtype(saved(dtype, says, key), base)

    assert (finding.code, finding.severity.value) == ("GM437", "warning")
    assert (finding.component, finding.location) == ("text_encoder", f"config.json:{key}")
    assert f"says {says}, and the file holds {NAMES[dtype]}; the reference's says float32" in finding.message


def test_is_a_note_where_nothing_says_how_the_model_was_published(saved):
    [finding] = stated_dtype(saved(torch.float32, "float16"), None)

    assert (finding.code, finding.severity.value) == ("GM437", "note")


@pytest.mark.parametrize("dtype", NAMES)
def test_what_the_library_saves_is_silent(copy, healthy, dtype):
    from transformers import T5EncoderModel

    model = T5EncoderModel.from_pretrained(copy / "text_encoder", dtype=dtype)
    model.save_pretrained(copy / "text_encoder")

    assert list(stated_dtype(encoder(copy), encoder(healthy))) == []


@pytest.mark.parametrize(("dtype", "says"), [(torch.float16, "float32"), (torch.bfloat16, "float32")])
def test_wider_dtype_than_the_file_is_silent(saved, healthy, dtype, says):
    assert list(stated_dtype(saved(dtype, says), encoder(healthy))) == []


def test_what_the_reference_says_too_is_silent(saved):
    ours = saved(torch.float32, "float16")

    assert list(stated_dtype(ours, replace(ours))) == []


def test_dtype_of_the_variant_beside_the_file_is_silent(saved, healthy):
    ours = saved(torch.float16, "float16", file="model.fp16.safetensors")

    assert {s.variant for s in ours.file_sets} == {None, "fp16"}
    assert list(stated_dtype(ours, encoder(healthy))) == []


@pytest.mark.parametrize("name", ["hunyuan-i2v", "svd", "cogvideox-i2v-trained"])
def test_tiny_pipelines_state_what_they_hold(tmp_path, name):
    folder = tiny.materialise(name, tmp_path)

    found = findings_at_rest(open_checkpoint(folder, str(folder)))

    assert [finding for finding in found if finding.code == "GM437"] == []


# --- adapters below an adapter ---


@pytest.fixture(scope="session")
def lora(healthy, tmp_path_factory):
    """A LoRA as diffusers saves it; read only."""
    return write_adapter(healthy, tmp_path_factory.mktemp("below") / "lora") / FILE


@pytest.fixture
def below(lora, tmp_path):
    """A folder with a LoRA, and another one in a folder below, so many hours younger."""

    def make(
        place: str, hours: float = 0.0, change=lambda t: t * 0.5, name: str = FILE, top: str = FILE
    ) -> Path:
        folder = tmp_path / "run"
        (folder / place).mkdir(parents=True)
        shutil.copy(lora, folder / top)
        inner = folder / place / name
        save_file({n: change(t) for n, t in load_file(lora).items()}, inner, {"format": "pt"})
        now = (folder / top).stat().st_mtime
        os.utime(inner, (now + 3600 * hours, now + 3600 * hours))
        return folder

    return make


def told(folder):
    return [
        (finding.code, finding.location) for finding in adapters_below(open_checkpoint(folder, str(folder)))
    ]


@pytest.mark.parametrize("hours", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("place", ["lora_weights", "final/lora"])
def test_another_adapter_below_is_named(below, place, hours):
    folder = below(place, hours)

    [finding] = adapters_below(open_checkpoint(folder, str(folder)))

    assert (finding.code, finding.location) == ("GM106", f"{place}/{FILE}")
    assert f"{FILE} above it is the one that is read" in finding.message
    assert ("5 hours younger" in finding.message) is (hours > 0)


@pytest.mark.parametrize("place", ["checkpoint-500", "lora_weights/000500", "best", "best_model"])
@pytest.mark.parametrize("hours", [-5.0, 0.0, 0.5])
def test_what_a_trainer_saves_on_the_way_is_silent(below, place, hours):
    assert told(below(place, hours)) == []


@pytest.mark.parametrize("place", ["checkpoint-500", "lora_weights/000500"])
def test_step_that_is_younger_than_the_result_is_named(below, place):
    assert told(below(place, 5.0)) == [("GM106", f"{place}/{FILE}")]


@pytest.mark.parametrize("place", ["checkpoint-500/ema", "checkpoint-500-ema", "pytorch_lora_weights_ema"])
def test_average_below_is_silent(below, place):
    assert told(below(place, 5.0)) == []


def test_copy_below_is_silent(below):
    assert told(below("lora_weights", 5.0, change=lambda t: t)) == []


def test_further_adapter_of_peft_is_silent(below):
    peft = "adapter_model.safetensors"

    assert told(below("second", 0.0, name=peft, top=peft)) == []


def test_file_that_was_named_is_silent(below):
    folder = below("lora_weights", 5.0)

    assert told(folder / FILE) == []


def test_adapter_for_other_layers_is_silent(below):
    folder = below("text", 5.0)
    inner = folder / "text" / FILE
    save_file({f"text_encoder.{n}": t for n, t in load_file(inner).items()}, inner, {"format": "pt"})

    assert told(folder) == []


def test_file_below_that_is_damaged_is_no_result(below):
    folder = below("lora_weights", 5.0)
    (folder / "lora_weights" / FILE).write_bytes(b"\x00" * 20)

    assert told(folder) == []
