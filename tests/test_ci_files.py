"""The files in docs/ci are true: valid by the services' own schemas, and every command in them can be given."""

from __future__ import annotations

import json
import re
import shlex
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

from pytest_genmodel.options import OPTIONS
from tests.editing import edit_json

CI = Path(__file__).resolve().parent.parent / "docs/ci"
FILES = ("github.yml", "gitlab-ci.yml", "Jenkinsfile")
OPTIONS_BY_FLAG = {option.flag: option for option in OPTIONS}


def commands(name: str) -> list[list[str]]:
    """The pytest commands of a file, each as its arguments; variables stay as they are."""
    text = (CI / name).read_text()
    text = re.sub(r"\\{1,2}\n\s*", "", text)
    lines = re.findall(r"^\s*(?:\S*/)?pytest (--.*)$", text, re.M)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize(
    ("name", "schema"), [("github.yml", "github-workflows.json"), ("gitlab-ci.yml", "gitlab-ci.json")]
)
def test_file_is_valid_by_the_services_schema(name, schema):
    vendored = files("check_jsonschema.builtin_schemas") / "vendor" / schema
    rules = json.loads(vendored.read_text(encoding="utf-8"))
    value = yaml.safe_load((CI / name).read_text())
    value = {
        "on" if key is True else key: one for key, one in value.items()
    }  # `on` is a truth value in YAML 1.1

    jsonschema.validators.validator_for(rules)(rules).validate(value)


def test_gitlab_jobs_keep_their_artifacts():
    value = yaml.safe_load((CI / "gitlab-ci.yml").read_text())

    assert value["gate"]["artifacts"]["reports"] == {
        "junit": "genmodel/junit.xml",
        "codequality": "genmodel/gl-code-quality-report.json",
    }
    assert value["zero-lr"]["extends"] == ".genmodel"


def test_brackets_and_quotes_of_the_jenkinsfile_match():
    text = re.sub(r"//.*", "", (CI / "Jenkinsfile").read_text())
    outside = re.sub(r"'''.*?'''", "''", text, flags=re.S)
    outside = re.sub(r"\$\{[^}]*\}", "", outside)

    assert text.count("'''") % 2 == 0
    for opens, closes in ("{}", "()", "[]"):
        assert outside.count(opens) == outside.count(closes)
    assert outside.lstrip().startswith("pipeline {")


@pytest.mark.parametrize("name", FILES)
def test_every_option_exists_and_takes_its_value(name):
    found = commands(name)

    assert len(found) == 2
    for arguments in found:
        given = [argument for argument in arguments if argument.startswith("--genmodel")]
        assert given
        for flag, _, value in (argument.partition("=") for argument in given):
            assert flag in OPTIONS_BY_FLAG
            OPTIONS_BY_FLAG[flag].parse(value)


@pytest.mark.parametrize("name", FILES)
def test_gate_of_each_file_is_red_for_a_damaged_checkpoint_and_writes_what_is_collected(
    name, run, pytester, copy
):
    edit_json(copy / "scheduler/scheduler_config.json", prediction_type="epsilon")
    copy.rename(pytester.path / "run-17")
    values = {"$CANDIDATE": "run-17", "$REFERENCE": "tiny:cogvideox-i2v"}
    gate, _ = commands(name)
    for variable, value in values.items():
        gate = [argument.replace(variable, value) for argument in gate]

    result = run(*gate, "--genmodel-level=static", "-k", "same_config", candidate=False)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    written = {path.name for path in (pytester.path / "genmodel").iterdir()}
    collected = set(re.findall(r"genmodel/([\w-]+\.\w+)", (CI / name).read_text()))
    assert written == collected - {"zero-lr.xml"}
    assert {"report.html", "junit.xml"} <= written


@pytest.mark.parametrize("name", FILES)
def test_zero_rate_of_each_file_calls_the_trainer_of_the_repository(name):
    _, zero = commands(name)

    assert "--genmodel-ckpt=tiny:cogvideox-i2v" in zero
    [command] = [argument for argument in zero if argument.startswith("--genmodel-train-cmd=")]
    assert "python train.py" in command
    assert zero[zero.index("-k") + 1] == "zero_lr or learning"


def test_options_of_the_page_exist():
    page = (CI / "index.md").read_text()
    for flag in re.findall(r"--genmodel-[\w-]+", page):
        assert flag in OPTIONS_BY_FLAG
    for name in re.findall(r"\]\(([^)/#]+)\)", page):
        assert (CI / name).is_file(), name
