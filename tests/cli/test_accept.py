"""`genmodel accept`: shows first, writes when it is told to, and refuses what must not become a baseline."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pytest_genmodel.baselines.store import Blob, Entry, Store
from tests.runs.runs import finding, saved

GOLDEN = "golden/tests/test_a.py::test_b[x]/latents"


def content(spec: str = "out/run-17", value: float = 1.0) -> Store:
    import torch

    store = Store(Path("unwritten"))
    store.put("reference/pipeline", Entry({"spec": spec, "conditions": {"level": "quick"}}))
    store.put("reference/component/vae", Entry({"tensors": {}, "digest": spec}))
    store.put(GOLDEN, Entry(None, {"value": Blob.of(torch.tensor([value]))}))
    return store


@pytest.fixture
def run(tmp_path):
    return saved(tmp_path / "run", baseline=content().to_bytes())


@pytest.fixture
def file(tmp_path):
    return tmp_path / "b.safetensors"


def accept(genmodel, run, file, *options):
    return genmodel("accept", run.path, *options, "--baseline", file)


def test_shown_then_written_then_nothing_changes(genmodel, run, file):
    looked = accept(genmodel, run, file, "--dry-run")
    assert (looked.status, file.exists()) == (0, False)
    assert "+ reference/pipeline" in looked.out
    as_json = accept(genmodel, run, file, "--dry-run", "--json")
    assert (as_json.status, as_json.json["exit_status"], as_json.json["written"]) == (0, 0, False)

    assert accept(genmodel, run, file, "--yes").status == 0
    store = Store.open(file)
    assert store.names() == ("accepted/last", *content().names())
    said = store.get("accepted/last").value
    assert said["who"]
    assert said["when"]
    assert said["command"].startswith("genmodel accept ")
    assert said["run"] == run.report["command"]["line"]

    before = file.read_bytes()
    again = accept(genmodel, run, file, "--yes")
    assert (again.status, file.read_bytes()) == (0, before)
    assert "nothing changes" in again.out


def test_one_value_of_a_test(genmodel, run, file):
    Store(file, {name: content("the/base", 0.0).get(name) for name in content().names()}).write()

    done = accept(genmodel, run, file, "tests/test_a.py::test_b[x]", "--yes")

    assert "~ golden/" in done.out
    store = Store.open(file)
    assert store.get(GOLDEN) == content().get(GOLDEN)
    assert store.get("reference/pipeline").value["spec"] == "the/base"


def test_the_candidate_takes_the_place_of_the_whole_reference(genmodel, run, file):
    old = content("the/base", 0.0)
    old.put("reference/component/unet", Entry({"tensors": {}}))
    Store(file, {name: old.get(name) for name in old.names()}).write()

    done = accept(genmodel, run, file, "reference", "--yes")

    assert "- reference/component/unet" in done.out
    store = Store.open(file)
    assert store.get("reference/component/unet") is None
    assert store.get("reference/pipeline").value["spec"] == "out/run-17"
    assert store.get(GOLDEN) == old.get(GOLDEN)


@pytest.mark.parametrize(("answer", "status", "written"), [("y", 0, True), ("", 1, False), ("no", 1, False)])
def test_a_person_is_asked(genmodel, run, file, monkeypatch, answer, status, written):
    stream = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", stream)

    assert (accept(genmodel, run, file).status, file.exists()) == (status, written)


def test_end_of_input_is_no(genmodel, run, file, monkeypatch):
    stream = io.StringIO("")
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", stream)

    done = accept(genmodel, run, file)

    assert (done.status, done.err, file.exists()) == (1, "", False)
    assert done.out.endswith("nothing was written\n")


def test_nobody_is_there_to_be_asked(genmodel, run, file):
    done = accept(genmodel, run, file)

    assert (done.status, file.exists()) == (2, False)
    assert "--yes" in done.err


def test_what_failed_is_shown_before_it_is_accepted(genmodel, tmp_path, file):
    run = saved(
        tmp_path / "run", baseline=content().to_bytes(), outcome="failed", findings=[finding("GM301")]
    )

    done = accept(genmodel, run, file, "--yes")

    assert done.status == 0
    assert "the run failed:\n  genmodel::sampling::seeded_sampling: GM301" in done.out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcome": "failed", "findings": [finding("GM501")]}, "GM501"),
        ({"outcome": "inconclusive", "reason": "no memory"}, "could not be judged (no memory)"),
    ],
)
def test_a_run_whose_control_failed_is_refused(genmodel, tmp_path, file, changes, said):
    run = saved(tmp_path / "run", baseline=content().to_bytes(), **changes)

    done = accept(genmodel, run, file, "--yes")

    assert (done.status, file.exists()) == (2, False)
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_a_run_that_did_not_come_to_its_end_is_refused(genmodel, run, file):
    import json

    path = run.path / "run.json"
    document = json.loads(path.read_text())
    document["report"] |= {"complete": False, "exit_status": 2}
    path.write_text(json.dumps(document))

    done = accept(genmodel, run, file, "--yes")

    assert (done.status, file.exists()) == (2, False)
    assert "did not come to its end" in done.err


def test_an_id_that_names_nothing_is_refused(genmodel, run, file):
    done = accept(genmodel, run, file, "tests/test_z.py::test_y", "--yes")

    assert (done.status, file.exists()) == (2, False)
    assert "reference, tests/test_a.py::test_b[x]/latents" in done.err


def test_a_run_without_a_baseline_must_be_told_the_file(genmodel, run):
    done = genmodel("accept", run.path, "--yes")

    assert done.status == 2
    assert "--baseline" in done.err


def test_a_run_that_kept_nothing(genmodel, tmp_path, file):
    done = accept(genmodel, saved(tmp_path / "run"), file, "--yes")

    assert done.status == 2
    assert "no baseline can be made of this run" in done.err


def test_damaged_material(genmodel, run, file):
    (run.path / "baseline.safetensors").write_bytes(b"nothing")

    done = accept(genmodel, run, file, "--yes")

    assert (done.status, len(done.err.splitlines())) == (2, 1)


def test_json(genmodel, run, file):
    done = accept(genmodel, run, file, "--yes", "--json")

    assert (done.json["command"], done.json["written"], done.json["exit_status"]) == ("accept", True, 0)
    assert len(done.json["changes"]) == 3
