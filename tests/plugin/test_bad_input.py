"""What is given and cannot be used: one line, or a finding; never our traceback, nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.editing import TRANSFORMER, edit_json


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in str(path)}


@pytest.fixture
def refused(run, pytester):
    """Run with these arguments; give the one line of the usage error."""

    def call(*arguments: str) -> str:
        before = files(pytester.path)
        result = run("-p", "no:cacheprovider", *arguments, candidate=False)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "Traceback" not in result.stdout.str() + result.stderr.str()
        assert files(pytester.path) == before
        [line] = [line for line in result.errlines if line]
        return line

    return call


def test_missing_path(refused):
    assert refused("--genmodel-ckpt=outputs/run-17/last") == (
        "ERROR: outputs/run-17/last: no such file or folder"
    )


def test_missing_reference(refused, healthy):
    assert "nowhere/at/all: no such file" in refused(
        f"--genmodel-ckpt={healthy}", "--genmodel-ref=nowhere/at/all"
    )


def test_empty_folder(refused, tmp_path):
    assert "the folder is empty" in refused(f"--genmodel-ckpt={tmp_path}")


def test_folder_of_another_kind(refused, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))

    assert "LlamaForCausalLM" in refused(f"--genmodel-ckpt={tmp_path}")


def test_folder_without_a_checkpoint(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")

    line = refused(f"--genmodel-ckpt={tmp_path}")

    assert "it holds notes.txt" in line
    assert "model_index.json" in line


def test_file_of_another_kind(refused, tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"0")

    assert "a .mp4 file is not a checkpoint" in refused(f"--genmodel-ckpt={tmp_path / 'video.mp4'}")


def test_unknown_tiny_name(refused):
    assert "cogvideox-i2v" in refused("--genmodel-ckpt=tiny:cogvideo-i2v")


def test_unknown_family(refused, copy):
    edit_json(copy / "model_index.json", _class_name="CogVideoXImage2VideoPipeline")

    line = refused(f"--genmodel-ckpt={copy}")

    assert "CogVideoXImage2VideoPipeline is no pipeline of the installed diffusers" in line
    assert "the nearest is CogVideoXImageToVideoPipeline" in line


def test_reference_of_another_family(refused, copy, healthy, monkeypatch):
    from pytest_genmodel.pipelines.families.cogvideox import CogVideoX

    monkeypatch.setattr(
        CogVideoX, "pipeline_classes", ("CogVideoXImageToVideoPipeline", "WanImageToVideoPipeline")
    )
    edit_json(copy / "model_index.json", _class_name="WanImageToVideoPipeline")

    line = refused(f"--genmodel-ckpt={healthy}", f"--genmodel-ref={copy}")

    assert "CogVideoXImageToVideoPipeline" in line
    assert "WanImageToVideoPipeline: they cannot be compared" in line


def test_partial_candidate_without_a_reference(refused, healthy):
    assert "give that as --genmodel-ref" in refused(f"--genmodel-ckpt={healthy / 'transformer'}")


def test_partial_reference(refused, healthy):
    line = refused(f"--genmodel-ckpt={healthy}", f"--genmodel-ref={healthy / 'transformer'}")

    assert "must be a whole pipeline" in line


def test_report_that_cannot_be_written(refused, healthy, tmp_path):
    (tmp_path / "file").write_text("")

    line = refused(f"--genmodel-ckpt={healthy}", f"--genmodel-json={tmp_path / 'file' / 'report.json'}")

    assert "--genmodel-json" in line


def test_calibration_that_cannot_be_written(refused, healthy, tmp_path):
    line = refused(f"--genmodel-ckpt={healthy}", f"--genmodel-calibrate={tmp_path}")

    assert line == f"ERROR: --genmodel-calibrate={tmp_path}: cannot be written there"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--genmodel-frames=10"], "10 frames cannot be made"),
        (["--genmodel-size=24x24"], "not in multiples of 16 pixels"),
        (["--genmodel-size=32x32"], "learned positions for 16x16 only"),
        (["--genmodel-image=nothing.png"], "cannot be read as a picture"),
        (["--genmodel-device=cuda"], "this machine has no CUDA device"),
    ],
)
def test_probe_that_cannot_be_made_is_refused_with_its_reason(
    refused, healthy, monkeypatch, arguments, message
):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert message in refused(f"--genmodel-ckpt={healthy}", *arguments)


def test_truncated_weights_are_a_finding(run, copy):
    file = copy / TRANSFORMER
    file.write_bytes(file.read_bytes()[:5000])

    result = run(f"--genmodel-ckpt={copy}", candidate=False)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["GM101 damaged file (error)", "  where:  transformer: diffusion_pytorch_model*"]
    )
    assert "Traceback" not in result.stdout.str()
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 1
    assert outcomes["passed"] == 2  # the schedule's claim and the fields', which need no weights
    assert outcomes["errors"] >= 10


def test_broken_model_index_is_a_finding(run, copy):
    (copy / "model_index.json").write_text("{")

    result = run(f"--genmodel-ckpt={copy}", candidate=False)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["GM101 damaged file (error)"])
    assert "Traceback" not in result.stdout.str()


def test_missing_optional_package_names_the_extra(run, copy, monkeypatch, healthy):
    import importlib.util

    from pytest_genmodel.training.lora import train_lora

    adapter = train_lora(healthy, lr=1e-3, steps=1, seed=0, output=copy.parent / "adapter")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "peft" else find_spec(n, *a))

    result = run(f"--genmodel-ckpt={adapter}", "--genmodel-ref={healthy}", "-k", "seeded", candidate=False)

    result.assert_outcomes(errors=1)
    assert "pip install 'pytest-genmodel[lora]'" in result.stdout.str()


def test_crash_of_a_check_is_an_error_that_says_where(run, monkeypatch):
    from pytest_genmodel.invariants import sampling

    monkeypatch.setattr(sampling, "content_findings", lambda sample: 1 / 0)

    result = run("-k", "seeded_sampling")

    result.assert_outcomes(errors=1)
    assert (
        "the check itself crashed: ZeroDivisionError: division by zero (test_bad_input.py"
        in result.stdout.str()
    )


def test_work_files_are_gone_after_the_run(run, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run("-k", "round_trip or zero_lr")

    assert not [path for path in tmp_path.iterdir() if path.name.startswith("genmodel-")]


def test_half_a_folder_is_no_checkpoint(refused, copy):
    shutil.rmtree(copy / "transformer")
    (copy / "model_index.json").unlink()
    for name in ("vae", "text_encoder"):
        shutil.rmtree(copy / name)

    assert "not a checkpoint" in refused(f"--genmodel-ckpt={copy}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--genmodel-ref="], "--genmodel-ref=: expected a value"),
        (["--genmodel-expect="], "--genmodel-expect=: expected one of"),
        (["--genmodel-expect=identical"], "give that as --genmodel-ref"),
        (["--genmodel-ckpt=/dev/null"], "/dev/null: neither a file nor a folder"),
        ([f"--genmodel-ckpt={'x' * 5000}"], "cannot be read (File name too long)"),
        (["--genmodel-seed=99999999999999999999"], "a whole number from 0 to 9223372036854775807"),
        (["--genmodel-steps=2000"], "a whole number from 1 to 1000"),
    ],
)
def test_value_that_cannot_be_used(refused, healthy, arguments, message):
    candidate = [] if "ckpt" in arguments[0] else [f"--genmodel-ckpt={healthy}"]

    assert message in refused(*candidate, *arguments)


def test_reference_is_looked_at_without_a_candidate(refused):
    assert "no such file or folder" in refused("--genmodel-ref=not/there/at/all")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that may be asked, knows no model, and has nothing in its cache."""
    from huggingface_hub import HfApi, constants

    def model_info(self, name, **_):
        raise ConnectionError(f"nobody knows {name}")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(HfApi, "model_info", model_info)


@pytest.mark.parametrize("option", ["ckpt", "ref"])
def test_what_the_hub_does_not_give_is_found_out_before_anything_is_judged(refused, healthy, hub, option):
    candidate = [] if option == "ckpt" else [f"--genmodel-ckpt={healthy}"]

    line = refused(*candidate, f"--genmodel-{option}=modles/base")

    assert line == (
        "ERROR: modles/base: no such file or folder, and the hub does not give it (nobody knows modles/base)"
    )


def test_run_without_a_candidate_says_what_is_missing(run, healthy):
    result = run(f"--genmodel-ref={healthy}", candidate=False)

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "nothing was judged: no candidate was given (--genmodel-ckpt=SPEC)" in result.outlines


def test_report_of_no_candidate_is_not_passed_over(run, pytester):
    pytester.makepyfile("def test_mine(): pass")
    said = (
        "--genmodel-json, --genmodel-summary: not written, for no candidate was given (--genmodel-ckpt=SPEC)"
    )

    result = run("--genmodel-json=r.json", "--genmodel-summary=s.md", candidate=False)
    mine = run(candidate=False)

    assert said in result.outlines
    assert "no candidate was given" not in mine.stdout.str()


def test_missing_run_beside_others_is_no_models_name_on_the_hub(refused, pytester):
    pytester.mkdir("outputs")

    line = refused("--genmodel-ckpt=outputs/run-17")

    assert line == "ERROR: outputs/run-17: no such file or folder"


def test_interrupted_run_says_so_in_its_report(run, pytester, report):
    pytester.makepyfile("raise KeyboardInterrupt")

    run("--genmodel-json=report.json", "-k", "coverage", subprocess=True)

    assert (report()["complete"], report()["exit_status"]) == (False, 2)


def test_report_that_could_not_be_written_at_the_end_is_red(run, pytester):
    pytester.makepyfile(
        test_a="def test_a():\n    import pathlib\n    p = pathlib.Path('out'); p.rmdir(); p.write_text('')\n"
    )
    pytester.mkdir("out")

    result = run("--genmodel-no-suite", "--genmodel-json=out/report.json")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*--genmodel-json=out/report.json: cannot be written*"])
