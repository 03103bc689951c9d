"""The folder of a saved run: whole or not at all, and one line for what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.runs.again import NewPolicy, judge_again
from pytest_genmodel.runs.saved import check_folder, is_run, read, write
from pytest_genmodel.tensors import close
from tests.runs.runs import compared, finding, sample, saved


def test_values_come_back(tmp_path):
    ours, theirs = sample(0.5, step=2), sample()
    run = saved(tmp_path / "run", compared(ours, theirs))
    [one] = next(iter(run.comparisons.values()))
    [place] = one["places"]

    a, b = run.values(place)

    assert torch.equal(a, ours.latents[1])
    assert torch.equal(b, theirs.latents[1])
    assert sorted(file.name for file in run.path.iterdir()) == ["observations.safetensors", "run.json"]
    assert read(run.path / "run.json").report == run.report


def test_a_run_takes_the_place_of_the_one_before_and_of_nothing_else(tmp_path):
    saved(tmp_path / "run", compared(sample(0.5, step=2), sample()))
    run = saved(tmp_path / "run")
    assert sorted(file.name for file in run.path.iterdir()) == ["run.json"]

    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.tex").write_text("years")
    check_folder(tmp_path / "run")
    check_folder(tmp_path / "new/deeper")
    for path in (tmp_path / "work", tmp_path / "work/thesis.tex"):
        with pytest.raises(BadInputError, match="something else is there"):
            check_folder(path)
    assert not is_run(tmp_path / "work")


def test_an_interrupted_write_leaves_the_run_before(tmp_path, monkeypatch):
    before = saved(tmp_path / "run").report

    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "run", {"x": float("nan")}, {}, {})
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        write(tmp_path / "run", before, {}, {})

    assert read(tmp_path / "run").report == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_cannot_be_put_in_its_place_leaves_the_run_before(tmp_path, monkeypatch):
    before = saved(tmp_path / "run").report
    rename = Path.rename

    def refused(path, target):
        if Path(target).name == "run" and not path.name.endswith("-old"):
            raise OSError(16, "busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="busy"):
        write(tmp_path / "run", {**before, "exit_status": 0}, {}, {})

    assert read(tmp_path / "run").report == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no saved run"),
        ("[" * 100_000, "is no saved run"),
        ("[]", "is no saved run of --genmodel-save-run"),
        ('{"genmodel_run": 9}', "of format 9"),
        ('{"genmodel_run": 1}', "is damaged"),
        ('{"genmodel_run": 1, "report": {"schema": 1}, "comparisons": {}, "policy": {}}', "is damaged"),
        (
            '{"genmodel_run": 1, "report": {"schema": 1, "verdicts": [3], "candidates": []}, "comparisons": {}, '
            '"policy": {}}',
            "is damaged",
        ),
    ],
)
def test_hostile_files_give_one_line(tmp_path, content, said):
    (tmp_path / "run.json").write_text(content)

    with pytest.raises(BadInputError, match=said) as raised:
        judge_again(read(tmp_path), NewPolicy())

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("verdicts", 0), None, "verdicts[0] is no object"),
        (("verdicts", 0, "outcome"), "green", "verdicts[0].outcome is none"),
        (("verdicts", 0, "id"), [], "verdicts[0].id is list"),
        (("verdicts", 0, "findings", 0, "action"), ..., "verdicts[0].findings[0] has no action"),
        (("verdicts", 0, "findings", 0, "severity"), "loud", "verdicts[0].findings[0].severity is none"),
        (("candidates", 0, "spec"), 1, "candidates[0].spec is int"),
        (("exit_status",), "x", "report.exit_status is str"),
        (("command",), ..., "report has no command"),
    ],
)
def test_a_damaged_report_says_where(tmp_path, place, value, said):
    run = saved(tmp_path / "run", outcome="failed", findings=[finding("GM301")])
    document = json.loads((run.path / "run.json").read_text())
    *path, last = place
    holder = document["report"]
    for key in path:
        holder = holder[key]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    (run.path / "run.json").write_text(json.dumps(document))

    with pytest.raises(BadInputError) as raised:
        read(run.path)

    assert str(raised.value) == f"{run.path}: its run.json is damaged: {said}"


def test_there_is_none(tmp_path):
    with pytest.raises(BadInputError, match="there is no saved run"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_damaged_observations_give_one_line(tmp_path, damage):
    run = saved(tmp_path / "run", compared(sample(0.5, step=2), sample()))
    file = run.path / "observations.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "missing":
        document = json.loads((run.path / "run.json").read_text())
        document["comparisons"] = json.loads(
            json.dumps(document["comparisons"]).replace('"values": "0"', '"values": "7"')
        )
        (run.path / "run.json").write_text(json.dumps(document))
    else:
        file.write_text("no tensors")

    with pytest.raises(BadInputError) as raised:
        judge_again(read(run.path), NewPolicy(tolerances={"": close(rtol=0.5)}))

    assert "\n" not in str(raised.value)
