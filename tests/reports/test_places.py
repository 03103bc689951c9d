"""The file of a finding, relative to the repository, and the line of a configuration key."""

from __future__ import annotations

import json
import os

import pytest

from pytest_genmodel.reports.places import Place, Places, workspace
from tests.reports.documents import finding

CONFIG = {"_class_name": "X", "steps": 1000, "prediction_type": "epsilon", "rope": {"theta": 1}}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    root = tmp_path / "repository"
    checkpoint = root / "out" / "run-17"
    for folder in ("scheduler", "transformer", "vae"):
        (checkpoint / folder).mkdir(parents=True)
    (checkpoint / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "X"]}, indent=2))
    (checkpoint / "scheduler/scheduler_config.json").write_text(json.dumps(CONFIG, indent=2))
    (checkpoint / "vae/config.json").write_text("{}")
    (checkpoint / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"")
    shards = {"a": "model-00002-of-00002.safetensors", "evil": "../../../secret.safetensors"}
    index = {"weight_map": shards | {"long": f"{'a' * 5000}.safetensors"}}
    (checkpoint / "transformer/model.safetensors.index.json").write_text(json.dumps(index))
    for number in (1, 2):
        (checkpoint / f"transformer/model-0000{number}-of-00002.safetensors").write_bytes(b"")
    monkeypatch.chdir(root)
    return root


def place(root, code="GM301", component="vae", location=None, spec="out/run-17"):
    found = finding(code, component=component, location=location)
    return Places(root).of({"label": "run-17", "spec": spec}, found)


def test_a_configuration_key_has_its_line(repository):
    name = "out/run-17/scheduler/scheduler_config.json"
    at = place(repository, "GM401", "scheduler", "scheduler_config.json:prediction_type")
    assert at == Place(name, name, 4)
    assert place(repository, "GM401", "scheduler", "scheduler_config.json:rope.theta").line == 6
    assert place(repository, "GM401", "scheduler", "scheduler_config.json:nowhere").line == 1
    assert place(repository, "GM206", "vae", "model_index.json:vae").file == "out/run-17/model_index.json"


def test_a_tensor_lies_in_its_shard(repository):
    shard = "out/run-17/transformer/model-00002-of-00002.safetensors"
    index = "out/run-17/transformer/model.safetensors.index.json"
    assert place(repository, component="transformer", location="a").file == shard
    assert place(repository, component="transformer", location="missing").file == index
    assert place(repository, component="transformer", location="evil").file == index
    assert place(repository, component="transformer", location="long").file == index
    assert place(repository, location="w").file == "out/run-17/vae/diffusion_pytorch_model.safetensors"


def test_a_folder_that_cannot_be_listed_has_no_files_and_costs_no_report(repository, monkeypatch):
    def refused(_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.iterdir", refused)
    assert place(repository, location="w") == Place(None, "out/run-17/vae")


def test_a_damaged_file_is_named_with_its_offset(repository):
    at = place(repository, "GM101", "vae", "diffusion_pytorch_model.safetensors:17")
    assert at.file == "out/run-17/vae/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("code", "component", "location"),
    [
        ("GM920", None, "frame 5"),
        ("GM701", "transformer", "a"),
        ("GM101", "vae", "gone.safetensors"),
        ("GM101", "../..", "../../secret.json:x"),
        ("GM101", "vae", "/etc/passwd.json"),
        ("GM101", "vae\0", "a\0.json"),
        ("GM203", "transformer", f"{'a' * 5000}.json"),
    ],
)
def test_what_lies_in_no_file_of_the_checkpoint_has_none(repository, code, component, location):
    at = place(repository, code, component, location)
    assert at.file is None
    assert at.name.startswith("out/run-17")
    assert ".." not in at.name


def test_outside_of_the_repository_no_path_is_told(repository, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "run-17"
    elsewhere.parent.mkdir()
    os.rename(repository / "out/run-17", elsewhere)
    at = place(repository, "GM401", "scheduler", "scheduler_config.json:steps", str(elsewhere))
    assert at == Place(None, "run-17/scheduler/scheduler_config.json")


def test_a_tiny_pipeline_and_a_hub_id_have_names(repository):
    assert place(repository, location="w", spec="tiny:cogvideox-i2v") == Place(None, "run-17/vae")
    assert place(repository, location="w", spec="owner/name") == Place(None, "run-17/vae")


def test_a_lone_file_is_its_own_place(repository):
    file = "out/run-17/vae/diffusion_pytorch_model.safetensors"
    assert place(repository, "GM304", None, "w", file).file == file
    assert place(repository, "GM101", None, "diffusion_pytorch_model.safetensors:8", file).file == file


def test_which_set_of_weights_is_meant_is_no_part_of_the_path(repository):
    at = place(repository, "GM401", "vae", "config.json:x", "out/run-17@latest")
    assert at.file == "out/run-17/vae/config.json"


@pytest.mark.parametrize("name", ["GITHUB_WORKSPACE", "CI_PROJECT_DIR", "WORKSPACE"])
def test_the_ci_says_where_the_repository_lies(repository, tmp_path, monkeypatch, name):
    for other in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR", "WORKSPACE"):
        monkeypatch.delenv(other, raising=False)
    assert workspace() == repository
    monkeypatch.setenv(name, str(tmp_path))
    assert workspace() == tmp_path
    monkeypatch.setenv(name, str(tmp_path / "gone"))
    assert workspace() == repository
