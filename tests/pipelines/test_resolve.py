"""From what a user writes to a checkpoint: paths first, then the hub's cache, and tiny names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pytest_genmodel.checkpoints.checkpoint import Kind
from pytest_genmodel.checkpoints.damage import UnreadableCheckpointError
from pytest_genmodel.pipelines.resolve import peek, resolve
from pytest_genmodel.pipelines.tiny import UnknownTinyPipelineError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """An empty hub cache of this test's own, and no network."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def cached(hub: Path, repository: str, folder: Path) -> Path:
    """Lay `folder` into the cache as the hub does: blobs, and a snapshot of links to them."""
    root = hub / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        blob = root / "blobs" / f"{number:040d}"
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def refusal(spec: str, tmp_path: Path) -> str:
    with pytest.raises(UnreadableCheckpointError) as caught:
        resolve(spec, tmp_path / "work")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_is_opened_and_keeps_the_users_words(healthy, tmp_path, monkeypatch):
    monkeypatch.chdir(healthy.parent)

    for spec in (str(healthy), healthy.name, f"./{healthy.name}"):
        checkpoint = resolve(spec, tmp_path / "work")
        assert (checkpoint.kind, checkpoint.spec) == (Kind.PIPELINE, spec)
        assert peek(spec).kind is Kind.PIPELINE


def test_a_hub_id_is_read_from_the_cache_through_its_links(hub, healthy, tmp_path):
    snapshot = cached(hub, "someone/some-model", healthy)

    checkpoint = resolve("someone/some-model", tmp_path / "work")

    assert (checkpoint.kind, checkpoint.spec, checkpoint.root) == (
        Kind.PIPELINE,
        "someone/some-model",
        snapshot,
    )
    assert len(checkpoint.components["transformer"].weights.tensors) == 65


def test_a_pipeline_from_the_hubs_cache_is_covered(hub, healthy, judged):
    cached(hub, "someone/some-model", healthy)

    assert judged("coverage", "someone/some-model").findings == ()


def test_a_component_is_laid_over_a_pipeline_from_the_hubs_cache(hub, healthy, judged):
    cached(hub, "someone/some-model", healthy)

    verdict = judged("same_weights", healthy / "transformer", "someone/some-model")

    assert (verdict.outcome.value, verdict.findings) == ("passed", ())


def test_a_path_wins_over_a_hub_id_of_the_same_spelling(hub, healthy, tmp_path, monkeypatch):
    cached(hub, "outputs/run", healthy)
    shutil.copytree(healthy / "vae", tmp_path / "outputs" / "run")
    monkeypatch.chdir(tmp_path)

    assert resolve("outputs/run", tmp_path / "work").kind is Kind.COMPONENTS
    shutil.rmtree(tmp_path / "outputs")
    assert resolve("outputs/run", tmp_path / "work").kind is Kind.PIPELINE


def test_an_unknown_hub_id_offline_is_one_line_that_names_both_places(tmp_path):
    message = refusal("nobody/nothing", tmp_path)

    assert message.startswith("nobody/nothing: no such file or folder, and the hub does not give it (")


@pytest.mark.parametrize("spec", ["a/b--c", "-a/b", ".git/x", "a/b..c"])
def test_what_only_looks_like_a_hub_id_is_one_line_too(tmp_path, spec):
    assert refusal(spec, tmp_path).startswith(f"{spec}: no such file or folder")


@pytest.mark.parametrize("spec", ["no-such-run", "/no/such/run", "runs/a/b", "a b/c", "../gone", "."])
def test_what_can_be_no_hub_id_is_a_path_and_the_hub_is_not_asked(tmp_path, monkeypatch, spec):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)

    assert refusal(spec, tmp_path).startswith(f"{spec}: ")
    with pytest.raises(UnreadableCheckpointError):
        peek(spec)


def test_the_hub_is_asked_for_no_code_and_no_pickle(hub, tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}

    def give(repository, **arguments):
        asked.update(arguments)
        raise OSError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    refusal("a/b", tmp_path)

    patterns = asked["allow_patterns"]
    assert "*.safetensors" in patterns
    assert not any(pattern.endswith((".py", ".bin", ".pt", "*")) for pattern in patterns)


def test_looking_ahead_asks_no_hub_that_may_be_asked(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)

    assert peek("someone/some-model") is None


def test_looking_ahead_settles_a_hub_id_while_the_hub_is_off(hub, healthy):
    cached(hub, "someone/some-model", healthy)

    assert peek("someone/some-model").kind is Kind.PIPELINE
    with pytest.raises(
        UnreadableCheckpointError, match="no such file or folder, and the hub does not give it"
    ):
        peek("someone/another-model")


def test_a_missing_path_in_a_folder_that_is_there_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()

    with pytest.raises(UnreadableCheckpointError, match=r"^outputs/run-17: no such file or folder$"):
        peek("outputs/run-17")


def test_the_home_folder_is_expanded(healthy, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(healthy.parent))

    assert resolve(f"~/{healthy.name}", tmp_path / "work").kind is Kind.PIPELINE
    assert peek(f"~/{healthy.name}").kind is Kind.PIPELINE


def test_the_home_of_nobody_is_one_line(tmp_path):
    assert "no such file or folder" in refusal("~no-such-user-here/run", tmp_path)


def test_a_tiny_name_is_written_into_the_work_folder(tmp_path):
    checkpoint = resolve("tiny:cogvideox-i2v", tmp_path / "work")

    assert (checkpoint.kind, checkpoint.spec) == (Kind.PIPELINE, "tiny:cogvideox-i2v")
    assert checkpoint.root.is_relative_to(tmp_path / "work")
    assert resolve("tiny:cogvideox-i2v", tmp_path / "work").root == checkpoint.root


def test_a_tiny_name_is_checked_without_being_made(tmp_path):
    assert peek("tiny:cogvideox-i2v") is None
    for ask in (peek, lambda spec: resolve(spec, tmp_path / "work")):
        with pytest.raises(UnknownTinyPipelineError, match="Did you mean 'cogvideox-i2v'"):
            ask("tiny:cogvideo-i2v")
    assert not (tmp_path / "work").exists()


def test_a_revision_of_a_hub_id_is_what_the_hub_is_asked_for(hub, healthy, tmp_path):
    snapshot = cached(hub, "someone/some-model", healthy)
    (hub / "models--someone--some-model" / "refs" / "v2").write_text(COMMIT)

    for revision in ("v2", COMMIT):
        spec = f"someone/some-model@{revision}"
        assert (resolve(spec, tmp_path / "work").root, peek(spec).spec) == (snapshot, spec)
    assert refusal("someone/some-model@v3", tmp_path).startswith(
        "someone/some-model@v3: no such file or folder, and the hub does not give it ("
    )


def test_a_set_of_weights_of_a_hub_id_is_named_behind_its_revision(hub, healthy, tmp_path):
    cached(hub, "someone/runs", healthy.parent)

    checkpoint = resolve(f"someone/runs@main@{healthy.name}", tmp_path / "work")

    assert checkpoint.kind is Kind.PIPELINE
