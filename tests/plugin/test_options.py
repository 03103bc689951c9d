"""Options and their ini twins: read, checked, and refused in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_genmodel.diagnosis.allowance import Allowance
from pytest_genmodel.options import OPTIONS
from pytest_genmodel.settings import Settings, read

LADDER = "at least 3 rates, rising from 0, as 0,1e-9,1e-7,1e-5"
COMMAND = "python train.py --base {reference} --out {output} --lr {lr}"
SAMPLE = "python infer.py --model {candidate} --out {output}"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--genmodel-level=fast", "one of static, quick, full"),
        ("--genmodel-expect=same", "one of identical, finetuned, adapter"),
        ("--genmodel-device=gpu", "auto, cpu, mps, cuda or cuda:N"),
        ("--genmodel-dtype=fp16", "one of auto, float32, bfloat16, float16"),
        ("--genmodel-seed=-1", "a whole number from 0 to 9223372036854775807"),
        ("--genmodel-seed=x", "a whole number from 0 to 9223372036854775807"),
        ("--genmodel-steps=0", "a whole number from 1 to 1000"),
        ("--genmodel-frames=two", "a whole number from 1 to 100000"),
        ("--genmodel-size=720", "WIDTHxHEIGHT in pixels, as 720x480"),
        ("--genmodel-size=0x8", "WIDTHxHEIGHT in pixels, as 720x480"),
        ("--genmodel-prompt= ", "a value"),
        ("--genmodel-trainer=train.py", "package.module:function"),
        (
            "--genmodel-sample-cmd=infer {output}",
            "a command (the sampling command names neither {candidate} nor {reference} with {lora}: it would sample "
            "from another model than the one that is judged)",
        ),
        (
            "--genmodel-resume-args=--resume_from '{resume}",
            "arguments (the list of resume arguments cannot be split into arguments: No closing quotation)",
        ),
        ("--genmodel-train-timeout=0", "a whole number from 1 to 1000000"),
        ("--genmodel-lr-ladder=0,1e-9", LADDER),
        ("--genmodel-lr-ladder=1e-9,1e-7,1e-5", LADDER),
        ("--genmodel-lr-ladder=0,1e-7,1e-9", LADDER),
        ("--genmodel-lr-ladder=0,1e-9,nan", LADDER),
        ("--genmodel-lr-ladder=0,1e-9,inf", LADDER),
        ("--genmodel-lr-ladder=-1,0,1", LADDER),
        ("--genmodel-lr-ladder=0,1e-50,1e-9", LADDER),
        ("--genmodel-lr-ladder=a,b,c", LADDER),
        ("--genmodel-lr-ladder=,,", LADDER),
        (
            "--genmodel-train-cmd=train --out {output} --lr {lr}",
            "a command (the training command does not say where {reference} goes (the folder of the model to start "
            "from, a copy): without it the run is not the one that is asked for)",
        ),
    ],
)
def test_wrong_value_is_one_line_that_names_option_and_accepted_values(run, argument, expected):
    result = run(argument, candidate=False)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.errlines if line]
    assert lines == [f"ERROR: {argument}: expected {expected}"]


def test_wrong_ini_value_names_the_ini_key(run, pytester):
    pytester.makeini("[pytest]\ngenmodel_level = fast\n")

    result = run(candidate=False)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: genmodel_level=fast: expected one of static, quick, full"])


def test_every_option_has_an_ini_twin_with_the_same_effect(pytester):
    values = {
        "ckpt": "tiny:a",
        "ref": "tiny:b",
        "expect": "finetuned",
        "level": "static",
        "device": "cuda:1",
        "dtype": "bfloat16",
        "seed": "7",
        "steps": "3",
        "frames": "9",
        "size": "720x480",
        "image": "cat.png",
        "prompt": "a cat",
        "train-cmd": COMMAND,
        "resume-args": "--resume_from {resume}",
        "train-timeout": "60",
        "zero-lr": "1e-46",
        "train-result": "checkpoint-{steps}",
        "keep": "true",
        "calibrate": "floors.json",
        "lr-ladder": "0,1e-9,1e-7",
        "sample-cmd": SAMPLE,
        "cache": ".",
        "baseline": "model.baseline",
        "update-baseline": "true",
        "allow": "GM412: why",
        "trace": "true",
        "audit-time": "60",
        "audit-min": "0.9",
        "save-run": "run",
        "sarif": "out.sarif",
        "code-quality": "quality.json",
        "summary": "out.md",
        "annotations": "github",
        "json": "out.json",
        "report": "out.html",
        "strict": "true",
        "no-suite": "true",
    }
    excluding_others = {"trainer", "sampler", "audit"}
    assert {option.name for option in OPTIONS} == values.keys() | excluding_others
    flags = ("strict", "no-suite", "keep", "update-baseline", "trace")
    by_option = pytester.parseconfig(
        *(f"--genmodel-{name}" if name in flags else f"--genmodel-{name}={v}" for name, v in values.items())
    )
    pytester.makeini(
        "[pytest]\n" + "\n".join(f"genmodel_{name.replace('-', '_')} = {v}" for name, v in values.items())
    )
    by_ini = pytester.parseconfig()

    here = pytester.path
    assert read(by_ini) == replace(
        read(by_option),
        image=str(here / "cat.png"),
        calibrate=str(here / "floors.json"),
        cache=str(here),
        baseline=str(here / "model.baseline"),
        allow=(Allowance("GM412", "why", by="ini"),),
        save_run=str(here / "run"),
        json=str(here / "out.json"),
        report=str(here / "out.html"),
        sarif=str(here / "out.sarif"),
        code_quality=str(here / "quality.json"),
        summary=str(here / "out.md"),
    )
    assert read(by_option) == Settings(
        candidates=("tiny:a",),
        reference="tiny:b",
        expect="finetuned",
        level="static",
        device="cuda:1",
        dtype="bfloat16",
        seed=7,
        steps=3,
        frames=9,
        size=(720, 480),
        image="cat.png",
        prompt="a cat",
        train_command=COMMAND,
        zero_rate=1e-46,
        train_result="checkpoint-{steps}",
        keep=True,
        calibrate="floors.json",
        baseline="model.baseline",
        update_baseline=True,
        resume_args="--resume_from {resume}",
        train_timeout=60,
        ladder=(0.0, 1e-9, 1e-7),
        sample_command=SAMPLE,
        cache=".",
        allow=(Allowance("GM412", "why", by="option"),),
        audit_time=60,
        audit_min=0.9,
        save_run="run",
        trace=True,
        json="out.json",
        report="out.html",
        sarif="out.sarif",
        code_quality="quality.json",
        summary="out.md",
        annotations="github",
        strict=True,
        suite=False,
    )


def test_audit_may_stand_in_the_ini_file(pytester):
    pytester.makeini("[pytest]\ngenmodel_audit = true\ngenmodel_ref = tiny:a")

    assert read(pytester.parseconfig()) == Settings(candidates=("tiny:a",), reference="tiny:a", audit=True)


def test_function_and_command_cannot_both_be_the_trainer(run):
    result = run("--genmodel-trainer=a:b", f"--genmodel-train-cmd={COMMAND}", candidate=False)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --genmodel-trainer and --genmodel-train-cmd both name the trainer*"])


def test_resume_arguments_belong_to_a_command(run):
    result = run("--genmodel-trainer=a:b", "--genmodel-resume-args=--resume", candidate=False)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --genmodel-resume-args belong to a command*"])


def test_function_and_command_cannot_both_be_the_inference(run):
    result = run("--genmodel-sampler=a:b", f"--genmodel-sample-cmd={SAMPLE}", candidate=False)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --genmodel-sampler and --genmodel-sample-cmd both name the inference*"]
    )


def test_nothing_said_is_the_default(pytester):
    assert read(pytester.parseconfig()) == Settings()


def test_command_line_wins_over_the_ini_file(pytester):
    pytester.makeini("[pytest]\ngenmodel_level = static\ngenmodel_ckpt = tiny:a\n")

    settings = read(pytester.parseconfig("--genmodel-level=full", "--genmodel-ckpt=tiny:b"))

    assert (settings.level, settings.candidates) == ("full", ("tiny:b",))


def test_path_in_the_ini_file_is_relative_to_it(pytester, copy):
    copy.rename(pytester.path / "model")
    pytester.makeini("[pytest]\ngenmodel_ckpt = model\n")
    inner = pytester.mkdir("inner")

    settings = read(pytester.parseconfig("--rootdir", str(pytester.path), str(inner)))

    assert settings.candidates == (str(pytester.path / "model"),)


def test_pyproject_can_hold_a_projects_policy(run, pytester, healthy):
    pytester.makepyprojecttoml(
        f'[tool.pytest.ini_options]\ngenmodel_ckpt = ["{healthy}"]\ngenmodel_level = "static"\n'
    )

    run("-k", "coverage", candidate=False).assert_outcomes(passed=1)


def test_options_are_in_the_help_and_the_markers_too(run):
    assert "--genmodel-ckpt=SPEC" in run("--help", candidate=False).stdout.str()
    run("--markers", candidate=False).stdout.fnmatch_lines(["@pytest.mark.invariant(name, **parameters):*"])


@pytest.mark.parametrize("file", ["pyproject.toml", "pytest.ini"])
def test_ini_file_that_pytest_passed_over_for_a_spec_is_an_error(pytester, run, healthy, file):
    (pytester.path / file).write_text(
        '[tool.pytest.ini_options]\ngenmodel_level = "static"\n' if "toml" in file else ""
    )
    inner = pytester.mkdir("inner")
    pytester.chdir()

    spaced = run("--genmodel-ckpt", str(healthy), candidate=False)

    assert spaced.ret == pytest.ExitCode.USAGE_ERROR
    spaced.stderr.fnmatch_lines([f"*passes over {pytester.path / file}; write --genmodel-ckpt={healthy}"])
    run("--genmodel-ckpt", str(healthy), f"-c={file}", "--co", "-q", candidate=False).assert_outcomes()
    (inner / "model").symlink_to(healthy)
    assert run("--genmodel-ckpt", "inner/model", "--co", "-q", candidate=False).ret == pytest.ExitCode.OK


def test_spec_after_a_space_is_fine_where_no_ini_file_is_lost(run, healthy):
    assert run("--genmodel-ckpt", str(healthy), "--co", "-q", candidate=False).ret == pytest.ExitCode.OK
