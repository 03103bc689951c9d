"""A partial candidate over the reference: the candidate's part and the reference's rest, and both left untouched."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_genmodel.checkpoints.checkpoint import Checkpoint, Kind
from pytest_genmodel.checkpoints.damage import DamagedFileError
from pytest_genmodel.checkpoints.digest import component_digest
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.overlay import overlay
from tests.editing import TO_Q, TRANSFORMER, VAE, edit_json, edit_tensors


def state_of(folder: Path) -> dict[str, tuple[str, int]]:
    """What a folder (or file) holds: for each file its bytes and the time of its last change."""
    files = [folder] if folder.is_file() else [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files
    }


def laid_over(candidate: Path, reference: Path, workdir: Path) -> Checkpoint:
    return overlay(
        open_checkpoint(candidate, "candidate"), open_checkpoint(reference, "reference"), workdir / "work"
    )


def refusal(candidate: Path, reference: Path, workdir: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        laid_over(candidate, reference, workdir)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("candidate: ")
    return str(caught.value)


@pytest.fixture
def trained(healthy, tmp_path) -> dict[str, torch.Tensor]:
    """The transformer's tensors with one of them changed, so that it can be told from the reference's."""
    tensors = load_file(healthy / TRANSFORMER)
    return tensors | {TO_Q: tensors[TO_Q] + 0.5}


def folder_of(tensors, healthy, path: Path) -> Path:
    shutil.copytree(healthy / "transformer", path)
    save_file(tensors, path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return path


def trainer_folder(tensors, healthy, path: Path) -> Path:
    folder_of(tensors, healthy, path / "transformer")
    (path / "optimizer.bin").write_bytes(b"state")
    return path


def lone_file(tensors, healthy, path: Path) -> Path:
    save_file(tensors, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def lone_pickle(tensors, healthy, path: Path) -> Path:
    torch.save(tensors, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def wrapped_pickle(tensors, healthy, path: Path) -> Path:
    torch.save({"state_dict": tensors, "epoch": 3}, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


SHAPES = [folder_of, trainer_folder, lone_file, lone_pickle, wrapped_pickle]


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.__name__)
def candidate(request, trained, healthy, tmp_path) -> Path:
    return request.param(trained, healthy, tmp_path / "run-17")


def test_the_whole_has_the_candidates_transformer_and_the_rest_of_the_reference(
    candidate, trained, healthy, tmp_path
):
    whole = laid_over(candidate, healthy, tmp_path)

    reference = open_checkpoint(healthy, "reference")
    assert (whole.kind, whole.spec, whole.pipeline_class) == (
        Kind.PIPELINE,
        "candidate",
        reference.pipeline_class,
    )
    weights = whole.components["transformer"].weights
    assert weights.tensors.keys() == trained.keys()
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in trained.items())
    for name in ("vae", "text_encoder", "tokenizer", "scheduler"):
        assert component_digest(whole.components[name]) == component_digest(reference.components[name])
    assert dict(whole.components["transformer"].config) == dict(reference.components["transformer"].config)
    assert whole.components["transformer"].second_sets == ()


def test_nothing_is_written_into_reference_or_candidate(candidate, healthy, tmp_path, judged):
    before = state_of(candidate), state_of(healthy)

    laid_over(candidate, healthy, tmp_path)
    for invariant in ("coverage", "same_weights", "seeded_sampling"):
        judged(invariant, candidate, healthy)

    assert (state_of(candidate), state_of(healthy)) == before


def test_the_candidate_is_judged_as_what_it_is(candidate, healthy, judged):
    assert judged("coverage", candidate, healthy).findings == ()

    verdict = judged("same_weights", candidate, healthy, expect="finetuned")
    assert verdict.outcome is Outcome.PASSED
    assert (verdict.measurements["transformer"]["changed"], verdict.measurements["vae"]["changed"]) == (1, 0)

    [finding] = judged("same_weights", candidate, healthy, expect="identical").findings
    assert (finding.code, finding.component, finding.location) == ("GM301", "transformer", TO_Q)


def test_the_work_folder_holds_links_and_no_second_model(trained, healthy, tmp_path):
    whole = laid_over(lone_file(trained, healthy, tmp_path / "run"), healthy, tmp_path)

    assert (whole.root / TRANSFORMER).is_symlink()
    assert [path for path in whole.root.rglob("*") if path.is_file() and not path.is_symlink()] == []


def test_removing_the_work_folder_leaves_what_it_links_to(candidate, healthy, tmp_path):
    laid_over(candidate, healthy, tmp_path)

    shutil.rmtree(tmp_path / "work")

    assert candidate.exists()
    assert (healthy / TRANSFORMER).is_file()


def test_two_overlays_do_not_meet(trained, healthy, tmp_path):
    one = laid_over(lone_file(trained, healthy, tmp_path / "a"), healthy, tmp_path)
    two = laid_over(lone_file(trained, healthy, tmp_path / "b"), healthy, tmp_path)

    assert one.root != two.root
    assert one.components["transformer"].weights.content_digest() == (
        two.components["transformer"].weights.content_digest()
    )


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_a_lone_file_goes_where_its_names_are_known(healthy, tmp_path, judged, part):
    name = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
    file = Path(shutil.copy(healthy / part / name, tmp_path / "some.safetensors"))
    edit_tensors(file, lambda tensors: {key: t + 1 for key, t in tensors.items()})

    assert judged("coverage", file, healthy).findings == ()
    [finding] = judged("same_weights", file, healthy).findings
    assert (finding.code, finding.component) == ("GM301", part)


def test_a_lone_pickle_of_a_text_encoder_goes_under_the_name_that_transformers_reads(
    healthy, tmp_path, judged
):
    torch.save(load_file(healthy / "text_encoder" / "model.safetensors"), tmp_path / "t5.bin")

    assert judged("coverage", tmp_path / "t5.bin", healthy).findings == ()


def test_a_lone_file_that_wears_a_wrapper_is_still_known_and_the_wrapper_is_the_finding(
    trained, healthy, tmp_path, judged
):
    file = lone_file({f"module.{name}": t for name, t in trained.items()}, healthy, tmp_path / "run")

    [finding] = judged("coverage", file, healthy).findings
    assert (finding.code, finding.component) == ("GM205", "transformer")
    assert judged("same_weights", file, healthy).measurements["transformer"]["changed"] == 1


def test_a_component_that_was_saved_with_another_configuration_keeps_it(healthy, trained, tmp_path):
    folder = folder_of(trained, healthy, tmp_path / "run")
    edit_json(folder / "config.json", dropout=0.25)

    assert laid_over(folder, healthy, tmp_path).components["transformer"].config["dropout"] == 0.25


def test_the_references_probe_file_is_the_candidates_too(copy, trained, healthy, tmp_path):
    (copy / "probe.json").write_text('{"prompt": "mine"}')

    whole = laid_over(lone_file(trained, healthy, tmp_path / "run"), copy, tmp_path)

    assert (whole.root / "probe.json").read_text() == '{"prompt": "mine"}'


# --- what does not fit ----------------------------------------------------------------------------------------------


def test_a_component_of_another_class_is_refused(healthy, tmp_path):
    folder = Path(shutil.copytree(healthy / "transformer", tmp_path / "run"))
    edit_json(folder / "config.json", _class_name="WanTransformer3DModel")

    message = refusal(folder, healthy, tmp_path)

    assert "WanTransformer3DModel" in message
    assert "CogVideoXTransformer3DModel" in message


def test_a_component_that_the_reference_lacks_is_refused(healthy, tmp_path):
    folder = Path(shutil.copytree(healthy / "transformer", tmp_path / "run"))
    edit_json(folder / "config.json", _class_name="UNet3DConditionModel")

    message = refusal(folder, healthy, tmp_path)

    assert "has no unet to lay it over" in message
    assert "transformer" in message


def test_a_file_of_unrelated_names_is_refused(healthy, tmp_path):
    save_file({f"unet.{n}.weight": torch.ones(1) for n in range(9)}, tmp_path / "other.safetensors")

    message = refusal(tmp_path / "other.safetensors", healthy, tmp_path)

    assert "0% of its 9 tensor names are known" in message
    assert "not a part of reference" in message


def test_a_file_without_tensors_is_refused(healthy, tmp_path):
    save_file({}, tmp_path / "empty.safetensors")

    assert "0 tensor names" in refusal(tmp_path / "empty.safetensors", healthy, tmp_path)


def test_a_lone_pickle_that_cannot_be_read_is_damage_and_not_a_guess(healthy, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"nothing")

    with pytest.raises(DamagedFileError, match=r"x\.bin"):
        laid_over(tmp_path / "x.bin", healthy, tmp_path)


def test_a_refused_candidate_is_a_verdict_of_one_line_and_never_a_pass(healthy, tmp_path, judged):
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")

    verdict = judged("coverage", tmp_path / "other.safetensors", healthy)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "not a part of" in verdict.reason
    assert "\n" not in verdict.reason


def test_a_partial_candidate_without_a_reference_cannot_be_judged(healthy, judged):
    verdict = judged("coverage", healthy / VAE)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "--genmodel-ref" in verdict.reason
