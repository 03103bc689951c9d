"""`genmodel inspect`: what a checkpoint is, what is wrong with it by itself, and which sets of weights there are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.pipelines import tiny
from tests.checkpoints.test_inventory import write_lora
from tests.cli.conftest import check_findings
from tests.editing import TRANSFORMER, VAE, edit_tensors

TRAINED = "tiny:cogvideox-i2v-trained"
NAME = "encoder.conv_in.conv.weight"
TO_Q = "transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture
def trained(tmp_path) -> Path:
    """A copy of the trained tiny pipeline, to be damaged."""
    return Path(shutil.copytree(tiny.shipped_folder(TRAINED), tmp_path / "trained"))


def test_a_healthy_pipeline_is_described_and_clean(genmodel):
    done = genmodel("inspect", TRAINED)

    assert (done.status, done.err) == (0, "")
    first, *rest = done.out.splitlines()
    assert first == f"{TRAINED}: CogVideoXImageToVideoPipeline, family cogvideox"
    assert "transformer   CogVideoXTransformer3DModel      113   1,250,464   2.5 MB  F16" in rest
    assert "no finding at rest" in rest
    assert any(line.startswith("looked at: the files alone") for line in rest)
    assert max(map(len, rest)) <= 80


def test_json_says_the_same_with_every_figure(genmodel):
    value = genmodel("inspect", "--json", TRAINED).json

    assert (value["schema"], value["command"], value["exit_status"]) == (1, "inspect", 0)
    checkpoint = value["checkpoint"]
    assert (checkpoint["kind"], checkpoint["family"]) == ("pipeline", "cogvideox")
    parts = {part["name"]: part for part in checkpoint["components"]}
    assert parts["transformer"]["weights"] == {
        "tensors": 113,
        "parameters": 1_250_464,
        "bytes": 2_500_928,
        "dtypes": {"F16": 1_250_464},
        "unexplained": 0,
        "files": ["diffusion_pytorch_model.safetensors"],
    }
    assert parts["scheduler"]["weights"] is None
    assert (value["findings"], value["weight_sets"]) == ([], [])


def test_a_digest_is_of_the_content_and_costs_nothing_unless_asked_for(genmodel, trained):
    (original,) = (
        part for part in genmodel("inspect", "--json", "--digest", TRAINED).json["checkpoint"]["components"]
        if part["name"] == "transformer"
    )  # fmt: skip
    file = trained / TRANSFORMER
    save_file(load_file(file), file, metadata={"other": "metadata"})

    def digest(*options):
        parts = genmodel("inspect", "--json", *options, trained).json["checkpoint"]["components"]
        return next(part["digest"] for part in parts if part["name"] == "transformer")

    assert digest() is None
    assert digest("--digest") == original["digest"]
    edit_tensors(file, lambda tensors: {**tensors, TO_Q: tensors[TO_Q] * 2})
    assert digest("--digest") != original["digest"]


def test_a_fault_at_rest_is_a_finding_and_exit_1(genmodel, trained):
    edit_tensors(trained / VAE, lambda tensors: {**tensors, NAME: tensors[NAME] * torch.nan})

    done = genmodel("inspect", trained)
    value = genmodel("inspect", "--json", trained).json

    assert done.status == value["exit_status"] == 1
    assert "GM304" in done.out
    assert "conv_in.conv.weight" in done.out
    check_findings(value["findings"])
    assert value["findings"][0]["component"] == "vae"


def test_quiet_says_what_is_wrong_and_nothing_else(genmodel, trained):
    assert genmodel("inspect", "-q", trained).out == ""
    edit_tensors(trained / VAE, lambda tensors: {**tensors, NAME: tensors[NAME] * torch.nan})

    out = genmodel("inspect", "-q", trained).out

    assert out.strip().startswith("GM304")
    assert "CogVideoXTransformer3DModel" not in out


def test_warnings_count_where_they_are_asked_to(genmodel, trained):
    write_lora(trained)

    assert genmodel("inspect", trained).status == 0
    assert genmodel("inspect", "--strict", trained).status == 1
    assert "GM106" in genmodel("inspect", "--json", trained).codes


def test_a_damaged_component_is_a_finding_beside_what_can_be_read(genmodel, trained):
    with (trained / VAE).open("r+b") as stream:
        stream.truncate(1000)

    done = genmodel("inspect", trained)

    assert done.status == 1
    assert "vae: cannot be read:" in done.out
    assert "GM101" in done.out
    assert "CogVideoXTransformer3DModel" in done.out
    assert "Traceback" not in done.out + done.err


def test_a_lora_is_described_by_rank_scale_and_targets(genmodel, tmp_path):
    write_lora(tmp_path, rank=4)

    done = genmodel("inspect", tmp_path)

    for words in (
        "adapter: LoRA, pytorch_lora_weights.safetensors",
        "rank:    4",
        "scale:   not stored: diffusers takes alpha = rank, so 1",
        "targets: 1 layer (to_q)",
    ):
        assert words in done.out
    assert "GM803" in done.out


def test_a_scale_that_is_stored_is_told_with_its_place(genmodel, healthy, tmp_path):
    """The real writer: peft, whose configuration keeps alpha."""
    from diffusers import CogVideoXTransformer3DModel
    from peft import LoraConfig, get_peft_model

    model = CogVideoXTransformer3DModel.from_pretrained(healthy / "transformer")
    config = LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_out.0"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "lora")

    done = genmodel("inspect", tmp_path / "lora")
    value = genmodel("inspect", "--json", tmp_path / "lora").json

    assert "scale:   alpha / rank = 0.5 (adapter_config.json)" in done.out
    adapter = value["checkpoint"]["adapter"]
    assert (adapter["ranks"], adapter["scales"], adapter["targets"]) == ([4], [0.5], ["to_out.0", "to_q"])
    assert adapter["without_scale"] == 0


def test_a_lone_file_needs_no_reference(genmodel, healthy, tmp_path):
    shutil.copy(healthy / TRANSFORMER, tmp_path / "step-5.safetensors")

    done = genmodel("inspect", tmp_path / "step-5.safetensors")

    assert done.status == 0
    assert "65" in done.out


def test_an_output_with_a_choice_is_listed_and_asks_for_a_name(genmodel, healthy, tmp_path):
    run = tmp_path / "run-17"
    for step in (100, 200):
        shutil.copytree(healthy / "transformer", run / f"checkpoint-{step}" / "transformer")
    shutil.copytree(healthy / "transformer", run / "checkpoint-200" / "transformer_ema")

    done = genmodel("inspect", run)

    assert done.status == 2
    for name in ("@checkpoint-100", "@checkpoint-200/raw", "@checkpoint-200/ema"):
        assert name in done.out
    assert done.err.count("\n") == 1
    assert "name one, as" in done.err
    value = genmodel("inspect", "--json", run).json
    assert [one["label"] for one in value["weight_sets"]] == [
        "checkpoint-100",
        "checkpoint-200/raw",
        "checkpoint-200/ema",
    ]
    assert value["checkpoint"] is None
    assert "name one" in value["problem"]


def test_the_set_that_was_named_is_marked(genmodel, healthy, tmp_path):
    for step in (100, 200):
        shutil.copytree(healthy, tmp_path / "run" / f"checkpoint-{step}")

    done = genmodel("inspect", f"{tmp_path / 'run'}@latest")

    assert done.status == 0
    [marked] = [line for line in done.out.splitlines() if line.startswith("*")]
    assert "@checkpoint-200" in marked


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "no-such-folder"),
        ("inspect", "tiny:cogvideo"),
        ("inspect",),
        ("inspect", "--bogus", TRAINED),
        ("look", TRAINED),
        (),
        ("diff", TRAINED),
        ("diff", TRAINED, "no-such-folder"),
        ("diff", "--expect=other", TRAINED, TRAINED),
        ("diff", "--most=-1", TRAINED, TRAINED),
        ("diff", "--most=x", TRAINED, TRAINED),
    ],
)
def test_bad_usage_is_one_line_on_stderr_and_exit_2(genmodel, arguments):
    done = genmodel(*arguments)

    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err


def test_a_file_that_cannot_be_opened_is_one_line_and_exit_2(genmodel, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b'\x08\0\0\0\0\0\0\0{"a":  ')

    done = genmodel("inspect", tmp_path / "model.safetensors")

    assert (done.status, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert "model.safetensors" in done.err


def test_a_name_cannot_command_the_terminal(genmodel, tmp_path):
    save_file({"evil\x1b[2J\x07.weight": torch.full((4, 4), torch.nan)}, tmp_path / "a.safetensors")

    done = genmodel("inspect", tmp_path / "a.safetensors")

    assert "\x1b" not in done.out
    assert "\x07" not in done.out
    assert r"evil\x1b[2J\x07.weight" in done.out


@pytest.mark.parametrize("which", ["raw", "ema"])
def test_an_average_that_equals_the_raw_weights_is_a_finding(genmodel, healthy, tmp_path, which):
    for name in ("transformer", "transformer_ema"):
        shutil.copytree(healthy / "transformer", tmp_path / "run" / name)

    assert "GM310" in genmodel("inspect", "--json", f"{tmp_path / 'run'}@{which}").codes

    edit_tensors(
        tmp_path / "run" / "transformer_ema" / Path(TRANSFORMER).name,
        lambda tensors: {**tensors, TO_Q: tensors[TO_Q] * 1.01},
    )
    assert "GM310" not in genmodel("inspect", "--json", f"{tmp_path / 'run'}@{which}").codes
