"""`genmodel inspect` and `diff` with `--allow`: what is on purpose is a note, spelled and meant as in the plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from tests.cli.conftest import check_findings
from tests.editing import TO_Q, TRANSFORMER, VAE, edit_json, edit_tensors

TYPE = "scheduler_config.json:prediction_type"
FOR_TYPE = f"--allow=GM401@scheduler:{TYPE}: trained to predict noise"
REASON = "(allowed: trained to predict noise)"


@pytest.fixture
def changed(copy) -> Path:
    """A copy with another prediction type: GM401, an error."""
    edit_json(copy / "scheduler/scheduler_config.json", prediction_type="epsilon")
    return copy


def damaged(folder: Path) -> Path:
    """One tensor of the transformer scaled: GM301, an error that a reference shows."""
    edit_tensors(folder / TRANSFORMER, lambda tensors: {**tensors, TO_Q: tensors[TO_Q] * 1.5})
    return folder


def broken(folder: Path) -> Path:
    """The VAE all NaN: GM304, an error that the files alone show."""
    edit_tensors(folder / VAE, lambda tensors: {name: t * float("nan") for name, t in tensors.items()})
    return folder


def test_diff_makes_a_note_of_what_is_allowed(genmodel, healthy, changed):
    assert genmodel("diff", healthy, changed).status == 1

    done = genmodel("diff", "--json", FOR_TYPE, healthy, changed)

    assert (done.status, done.json["exit_status"]) == (0, 0)
    check_findings(done.json["findings"])
    [finding] = done.json["findings"]
    assert (finding["code"], finding["location"], finding["severity"]) == ("GM401", TYPE, "note")
    assert finding["message"].endswith(REASON)
    assert finding["allowed"]["severity"] == "error"
    text = genmodel("diff", FOR_TYPE, healthy, changed)
    assert text.status == 0
    assert REASON in " ".join(text.out.split())


def test_diff_fails_for_what_is_beside_it(genmodel, healthy, changed):
    damaged(changed)

    done = genmodel("diff", "--json", FOR_TYPE, healthy, changed)

    assert done.status == 1
    assert {(one["code"], one["severity"]) for one in done.json["findings"]} == {
        ("GM401", "note"),
        ("GM301", "error"),
    }
    assert (
        genmodel("diff", FOR_TYPE, f"--allow=GM301@transformer:{TO_Q}: scaled", healthy, changed).status == 0
    )


def test_inspect_and_changed_take_it_too(genmodel, copy, monkeypatch):
    broken(copy)
    allow = "--allow=GM304@vae: it is never used"
    assert genmodel("inspect", copy).status == 1

    done = genmodel("inspect", "--json", allow, copy)
    assert done.status == 0
    assert {(one["component"], one["severity"]) for one in done.json["findings"]} == {("vae", "note")}

    assert genmodel("inspect", "--allow=GM304@transformer: not there", copy).status == 1
    monkeypatch.chdir(copy.parent)
    assert genmodel("inspect", "--changed", f"{copy.name}/{VAE}").status == 1
    assert genmodel("inspect", "--changed", allow, f"{copy.name}/{VAE}").status == 0


@pytest.mark.parametrize("part", ["", "transformer"])
def test_a_digest_is_the_one_that_the_plugin_reports(genmodel, healthy, copy, part):
    """Of a whole candidate, and of a part, which is laid over the reference."""
    candidate = damaged(copy) / part
    session = GenmodelSession(Settings(candidates=(str(candidate),), reference=str(healthy)))
    try:
        digest = session.pipeline(str(candidate)).digest
    finally:
        session.close()

    for digits, status in ((digest[:12], 0), ("0" * 12, 1)):
        done = genmodel("diff", "--json", f"--allow=GM301#sha256:{digits}: looked at", healthy, candidate)
        assert done.status == status
    [finding] = done.json["findings"]
    assert f"this one is sha256:{digest[:12]}" in finding["action"]


def test_inspect_holds_a_digest_against_the_checkpoint(genmodel, copy):
    [finding, *_] = genmodel(
        "inspect", "--json", "--allow=GM304#sha256:000000000000: seen", broken(copy)
    ).json["findings"]
    digest = finding["action"].partition("this one is sha256:")[2][:12]

    assert len(digest) == 12
    assert genmodel("inspect", f"--allow=GM304#sha256:{digest}: seen", copy).status == 0


@pytest.mark.parametrize(
    ("command", "wrong", "said"),
    [
        ("inspect", "GM304", "expected a reason"),
        ("diff", "GM230: why", "did you mean GM213"),
        ("inspect", "GM010: why", "expected a code that can be allowed"),
        ("diff", "GM401#sha256:12: why", "12 to 64 hex digits"),
    ],
)
def test_a_wrong_allowance_is_one_line_before_anything_is_read(genmodel, command, wrong, said):
    specs = ["nowhere"] * (2 if command == "diff" else 1)

    done = genmodel(command, "--allow", wrong, *specs)

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"genmodel: --allow={wrong}: ")
    assert said in done.err
    assert done.err.count("\n") == 1
