"""`genmodel inspect --changed`: from the files of a commit to their checkpoints, each judged once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from pytest_genmodel.cli.changed import checkpoint_of
from pytest_genmodel.cli.main import main
from tests.cli.conftest import check_findings
from tests.editing import TRANSFORMER, VAE, edit_json, edit_tensors

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456\n"
HOOKS = Path(__file__).resolve().parents[2] / ".pre-commit-hooks.yaml"


@pytest.fixture
def repository(healthy, tmp_path, monkeypatch):
    """A repository with a pipeline, and the current folder its root."""
    shutil.copytree(healthy, tmp_path / "repository/out/run-17")
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path / "repository"


def test_a_checkpoint_is_judged_once_however_many_of_its_files_changed(genmodel, repository):
    edit_tensors(
        Path("out/run-17") / VAE,
        lambda tensors: {name: tensor * float("nan") for name, tensor in tensors.items()},
    )

    done = genmodel(
        "inspect", "--changed", "--json", f"out/run-17/{VAE}", f"out/run-17/{TRANSFORMER}", "README.md"
    )

    assert done.status == 1
    check_findings(done.json["findings"])
    assert [one["spec"] for one in done.json["checkpoints"]] == ["out/run-17"]
    assert ("GM304", "vae") in {(one["code"], one["component"]) for one in done.json["findings"]}


def test_a_healthy_commit_is_quiet(genmodel, repository):
    done = genmodel("inspect", "--changed", "-q", f"out/run-17/{VAE}", "out/run-17/model_index.json")

    assert (done.status, done.out, done.err) == (0, "", "")


def test_a_pointer_of_git_lfs_is_a_finding_in_its_checkpoint_and_alone(genmodel, repository):
    Path(f"out/run-17/{TRANSFORMER}").write_text(POINTER)
    Path("lone.safetensors").write_text(POINTER)

    done = genmodel("inspect", "--changed", "-q", f"out/run-17/{TRANSFORMER}", "lone.safetensors")

    assert done.status == 1
    assert done.out.count("GM102 not weights (error)") == 2
    assert done.out.count("git lfs pull") == 2
    assert "out/run-17: 1 error (genmodel explain GM102)" in done.out
    assert "lone.safetensors: 1 error" in done.out


def test_what_cannot_be_opened_is_said_and_the_others_are_judged(genmodel, repository):
    Path("out/run-17/model_index.json").write_text("{")
    edit_json(Path("out/run-17/vae/config.json"), _class_name=...)
    Path("empty.safetensors").write_text("")

    done = genmodel("inspect", "--changed", "--json", "out/run-17/model_index.json", "empty.safetensors")

    assert done.status == 1
    found = {one["spec"]: [each["code"] for each in one["findings"]] for one in done.json["checkpoints"]}
    assert found == {"out/run-17": ["GM101"], "empty.safetensors": ["GM101"]}


def test_files_of_no_checkpoint_are_none(genmodel, repository):
    Path("app").mkdir()
    Path("app/config.json").write_text('{"debug": true}')
    Path("app/broken").mkdir()
    Path("app/broken/config.json").write_text("// not JSON")

    done = genmodel(
        "inspect", "--changed", "app/config.json", "app/broken/config.json", "gone/file.safetensors"
    )

    assert (done.status, done.out.strip()) == (0, "none of the files is part of a checkpoint")


@pytest.mark.parametrize(
    ("file", "checkpoint"),
    [
        ("out/run-17/model_index.json", "out/run-17"),
        (f"out/run-17/{TRANSFORMER}", "out/run-17"),
        ("out/run-17/tokenizer/tokenizer_config.json", "out/run-17"),
        ("out/run-17/checkpoint-200/transformer/config.json", "out/run-17/checkpoint-200/transformer"),
        ("out/run-17/checkpoint-200/optimizer.pt", "out/run-17/checkpoint-200/optimizer.pt"),
        ("lora/pytorch_lora_weights.safetensors", "lora"),
        ("lora/README.md", None),
        ("a.safetensors", "a.safetensors"),
    ],
)
def test_the_nearest_checkpoint_is_meant(repository, file, checkpoint):
    shutil.copytree("out/run-17/transformer", "out/run-17/checkpoint-200/transformer")
    Path("lora").mkdir()
    for name in ("out/run-17/checkpoint-200/optimizer.pt", "a.safetensors", "lora/README.md"):
        Path(name).write_bytes(b"")
    shutil.copy(f"out/run-17/{VAE}", "lora/pytorch_lora_weights.safetensors")

    found = checkpoint_of(Path(file))

    assert found == (Path(checkpoint) if checkpoint else None)
    if checkpoint != "lora" and found is not None:
        assert checkpoint_of(repository / file) == repository / found


def test_several_checkpoints_need_the_flag(genmodel, repository):
    done = genmodel("inspect", "out/run-17", "out/run-17")

    assert done.status == 2
    assert done.err == "genmodel: give one checkpoint, or --changed with the files that changed\n"


def test_the_hook_calls_the_command_on_the_files_that_matter(repository, capsys):
    [hook] = yaml.safe_load(HOOKS.read_text())
    command, *arguments = hook["entry"].split()
    files = [
        path.relative_to(repository).as_posix() for path in sorted(repository.rglob("*")) if path.is_file()
    ]
    matching = [name for name in files if re.search(hook["files"], name)]

    assert command == "genmodel"
    assert {Path(name).name for name in matching} >= {
        "model_index.json",
        "config.json",
        "scheduler_config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert not {name for name in matching if "tokenizer" in name}
    assert main([*arguments, *matching]) == 0
    Path(f"out/run-17/{TRANSFORMER}").write_text(POINTER)
    assert main([*arguments, *matching]) == 1
    assert "GM102" in capsys.readouterr().out
    for name, wanted in (
        ("x/model-00001-of-00002.safetensors", True),
        ("x/diffusion_pytorch_model.bin", True),
        ("firmware.bin", False),
        ("package.json", False),
        ("x/diffusion_pytorch_model.safetensors.index.json", True),
    ):
        assert bool(re.search(hook["files"], name)) is wanted, name
