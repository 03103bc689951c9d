"""--genmodel-allow, genmodel_allow and allow= of a marker: what is on purpose is a note, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import pytest

from pytest_genmodel.reports.report import SCHEMA_FILE
from tests.editing import TRANSFORMER, drop_tensors, edit_json, edit_tensors

KEY = "scheduler_config.json:prediction_type"
STATIC = ("--genmodel-level=static", "--genmodel-ref={healthy}", "--genmodel-json=report.json")
CLAIMS = ("-k", "same_config or sound_schedule")


@pytest.fixture(scope="module")
def changed(tmp_path_factory, healthy) -> Path:
    """A candidate with another prediction type: GM401 of `same_config` and GM412 of `sound_schedule`."""
    folder = Path(shutil.copytree(healthy, tmp_path_factory.mktemp("changed") / "changed"))
    edit_json(folder / "scheduler/scheduler_config.json", prediction_type="epsilon")
    return folder


@pytest.fixture
def judge(run, changed):
    """Run the static level for the changed candidate."""

    def call(*arguments, **options):
        return run(*STATIC, f"--genmodel-ckpt={changed}", *arguments, candidate=False, **options)

    return call


def ran(result):
    """How many items came to which end; those that -k left out do not count."""
    return {
        word: number
        for word, number in result.parseoutcomes().items()
        if word in ("passed", "failed", "skipped", "errors")
    }


def of(document, invariant):
    """The one verdict of an invariant."""
    [verdict] = [each for each in document["verdicts"] if each["invariant"] == invariant]
    return verdict


def test_without_an_allowance_both_claims_fail(judge):
    assert ran(judge(*CLAIMS)) == {"failed": 2}


def test_allowed_finding_is_a_note_with_its_reason_and_fails_nothing(judge, report):
    result = judge("--genmodel-allow=GM401@scheduler: trained to predict noise", *CLAIMS)

    assert ran(result) == {"passed": 1, "failed": 1}
    same, sound = of(report(), "same_config"), of(report(), "sound_schedule")
    [found] = same["findings"]
    assert (same["outcome"], found["code"], found["location"]) == ("passed", "GM401", KEY)
    assert found["severity"] == "note"
    assert found["message"].endswith("(allowed: trained to predict noise)")
    assert found["allowed"] == {
        "allowance": "GM401@scheduler",
        "reason": "trained to predict noise",
        "by": "option",
        "severity": "error",
    }
    assert sound["outcome"] == "failed"
    assert [each["allowed"] for each in sound["findings"]] == [None]
    said = " ".join(result.stdout.str().split())
    assert "(allowed: trained to predict noise) (GM401)" in said
    jsonschema.validate(report(), json.loads(SCHEMA_FILE.read_text()))


def test_ini_file_and_command_line_add_up(judge, pytester, report):
    pytester.makeini(
        "[pytest]\ngenmodel_allow =\n"
        "    # what this project always allows\n"
        "    GM401@scheduler:*:prediction_type: trained to predict noise\n"
        "    GM803: the trainer's alpha = its rank\n"
        "    GM301@vae#sha256:0f343b0931ab: its decoder was trained on; looked at\n"
    )

    assert ran(judge("--genmodel-allow=GM412: looked at", *CLAIMS)) == {"passed": 2}

    by = {
        verdict["findings"][0]["code"]: verdict["findings"][0]["allowed"]["by"]
        for verdict in report()["verdicts"]
    }
    assert by == {"GM401": "ini", "GM412": "option"}
    assert [each["allowance"] for each in report()["allowances"]] == [
        "GM412",
        "GM401@scheduler:*:prediction_type",
        "GM803",
        "GM301@vae#sha256:0f343b0931ab",
    ]
    reasons = [each["reason"] for each in report()["allowances"]]
    assert reasons[2:] == ["the trainer's alpha = its rank", "its decoder was trained on; looked at"]


def test_pyproject_holds_a_list(judge, pytester):
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\ngenmodel_allow = ["GM401: trained to predict noise", "GM412: looked at"]\n'
    )
    assert ran(judge(*CLAIMS)) == {"passed": 2}


def test_digest_holds_for_this_candidate_and_for_no_other(judge, report, pytester):
    assert ran(judge("--genmodel-allow=GM412#sha256:0123456789ab: looked at", *CLAIMS)) == {"failed": 2}
    [found] = of(report(), "sound_schedule")["findings"]
    digest = report()["candidate"]["digest"]
    assert "holds for another candidate" in found["action"]
    assert f"sha256:{digest[:12]}" in found["action"]

    result = judge(f"--genmodel-allow=GM412#sha256:{digest[:16]}: looked at", *CLAIMS)
    assert ran(result) == {"passed": 1, "failed": 1}
    assert (
        of(report(), "sound_schedule")["findings"][0]["allowed"]["allowance"] == f"GM412#sha256:{digest[:16]}"
    )


def test_two_candidates_are_told_apart_by_the_digest(run, changed, tmp_path, report, judge):
    judge("--genmodel-allow=GM412#sha256:0123456789ab: x", *CLAIMS)
    digest = report()["candidate"]["digest"]
    other = Path(shutil.copytree(changed, tmp_path / "other"))
    edit_json(other / "scheduler/scheduler_config.json", prediction_type="epsilon", snr_shift_scale=2.0)

    both = (f"--genmodel-ckpt={changed}", f"--genmodel-ckpt={other}")
    result = run(
        *STATIC,
        *both,
        f"--genmodel-allow=GM412#sha256:{digest[:12]}: x",
        "-k",
        "sound_schedule",
        candidate=False,
    )

    assert ran(result) == {"passed": 1, "failed": 1}
    outcomes = {verdict["candidate"]: verdict["outcome"] for verdict in report()["verdicts"]}
    assert outcomes == {"changed": "passed", "other": "failed"}


def test_marker_allows_for_its_own_claim_alone(run, changed, pytester, report):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.invariant("same_config", allow={"GM401": "trained to predict noise"})
        def test_allowed(): pass

        @pytest.mark.invariant("same_config")
        @pytest.mark.invariant("same_config", allow=["GM401@vae: another place", "GM404: smaller clips"])
        def test_not_allowed(): pass
        """
    )

    result = run(*STATIC, "--genmodel-no-suite", f"--genmodel-ckpt={changed}", candidate=False)

    assert ran(result) == {"passed": 1, "failed": 2}
    verdicts = {verdict["id"].split("::")[1]: verdict for verdict in report()["verdicts"]}
    allowed = verdicts.pop("test_allowed[same_config]")
    assert allowed["findings"][0]["allowed"]["by"] == "marker"
    assert allowed["parameters"] == {"allow": "GM401: trained to predict noise"}
    codes = sorted([finding["code"] for finding in verdict["findings"]] for verdict in verdicts.values())
    assert codes == [["GM401"], ["GM401", "GM030", "GM030"]]
    told = [f["message"] for v in verdicts.values() for f in v["findings"] if f["code"] == "GM030"]
    assert told[0] == "GM401@vae is allowed by the marker and was not found: remove it"


@pytest.mark.parametrize(
    ("allow", "message"),
    [
        ("{'GM401': ''}", "allow=GM401: : expected a reason (an allowance carries a reason)"),
        (
            "'GM401'",
            "allow=GM401: expected a reason (an allowance carries a reason), as 'GM401: why it is so",
        ),
        ("{'GM499': 'why'}", "no rule has the code GM499; did you mean GM4"),
        ("{'ACME01': 'why'}", "no rule has the code ACME01"),
        ("{'GM401'}", "expected {'CODE': 'reason'}, or a list of texts"),
    ],
)
def test_wrong_allowance_of_a_marker_is_a_collection_error_that_helps(run, pytester, allow, message):
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.invariant('coverage', allow={allow})\ndef test_it(): pass"
    )

    result = run("--genmodel-no-suite")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert message in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("GM401", "expected a reason (an allowance carries a reason), as 'GM401: why it is so on purpose'"),
        ("GM4O1: why", "no rule has the code GM4O1; did you mean GM4"),
        ("GM010: why", "expected a code that can be allowed"),
        ("ACME1: why", "no rule has the code ACME1 (genmodel explain lists all of them)"),
    ],
)
def test_wrong_allowance_is_one_line(run, value, expected):
    result = run(f"--genmodel-allow={value}", "--collect-only", "-q")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    [line] = [line for line in result.errlines if line]
    assert line.startswith(f"ERROR: --genmodel-allow={value}: ")
    assert expected in line


def test_wrong_line_of_the_ini_file_names_its_key(run, pytester):
    pytester.makeini("[pytest]\ngenmodel_allow =\n    GM401: why\n    GM412\n")

    result = run()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: genmodel_allow=GM412: expected a reason*"])


def test_code_of_an_own_invariant_can_be_allowed_even_for_an_assertion(run, pytester, report):
    pytester.makepyfile(
        """
        import pytest
        from pytest_genmodel import invariant

        @invariant(code="ACME005", level="static")
        def logo_of_allow(context):
            assert False, "the logo is gone"

        @pytest.mark.invariant("logo_of_allow")
        def test_it(): pass
        """
    )

    assert ran(run("--genmodel-no-suite", "--genmodel-level=static")) == {"failed": 1}
    arguments = ("--genmodel-no-suite", "--genmodel-level=static", "--genmodel-json=report.json")
    assert ran(run("--genmodel-allow=ACME005: a new logo comes", *arguments)) == {"passed": 1}
    [found] = report()["verdicts"][0]["findings"]
    assert found["message"] == "the logo is gone\nassert False (allowed: a new logo comes)"


def test_what_could_not_be_judged_stays_red_whatever_is_allowed(run, pytester):
    pytester.makeconftest(
        """
        from pytest_genmodel import Finding, invariant

        @invariant(code="ACME006", level="static")
        def broken_off(context):
            yield Finding("ACME006", "found before")
            context.cannot_judge("out of paper")
        """
    )
    pytester.makepyfile("import pytest\n@pytest.mark.invariant('broken_off')\ndef test_it(): pass")

    result = run("--genmodel-no-suite", "--genmodel-level=static", "--genmodel-allow=ACME006: meant")

    assert ran(result) == {"errors": 1}
    result.stdout.fnmatch_lines(["*broken_off could not be judged: out of paper*"])


def test_own_invariant_may_not_take_the_markers_parameter(run, pytester):
    pytester.makeconftest(
        "from pytest_genmodel import invariant\n@invariant\ndef takes_allow(context, *, allow=1):\n    yield from ()"
    )
    result = run()
    assert result.ret != 0
    assert (
        "takes a parameter 'allow', which is every marker's own" in result.stdout.str() + result.stderr.str()
    )


def test_damage_beside_what_is_allowed_is_still_found(run, copy, healthy, report):
    """Two tensors changed and one allowed by name: the other must not ride along."""
    names: list[str] = []

    def double(tensors):
        names.extend(sorted(tensors)[:2])
        return {name: t * 2 if name in names else t for name, t in tensors.items()}

    edit_tensors(copy / "vae/diffusion_pytorch_model.safetensors", double)
    arguments = (*STATIC, f"--genmodel-ckpt={copy}", "-k", "same_weights")

    assert ran(run(*arguments, candidate=False)) == {"failed": 1}
    [code] = {finding["code"] for finding in report()["verdicts"][0]["findings"]}
    one = f"--genmodel-allow={code}@vae:{names[0]}: meant"
    assert ran(run(*arguments, one, candidate=False)) == {"failed": 1}
    assert names[1] in json.dumps(report()["verdicts"][0]["findings"])
    assert ran(run(*arguments, f"--genmodel-allow={code}@vae: meant", candidate=False)) == {"passed": 1}


def test_allowance_that_nothing_needs_is_a_note_of_a_whole_run_only(judge, report):
    allow = (
        "--genmodel-allow=GM412: looked at",
        "--genmodel-allow=GM401: meant",
        "--genmodel-allow=GM403@tok*: old",
    )

    result = judge(*allow)

    assert result.ret == pytest.ExitCode.OK
    entries = {entry["allowance"]: entry for entry in report()["allowances"]}
    assert {target: entry["found"] for target, entry in entries.items()} == {
        "GM412": True,
        "GM401": True,
        "GM403@tok*": False,
    }
    note = entries["GM403@tok*"]["note"]
    assert note.startswith(
        "GM403@tok* is allowed and was not found: remove it, unless it is for what was skipped"
    )
    assert "  note: GM403@tok* is allowed and was not found: remove it" in result.stdout.str()
    jsonschema.validate(report(), json.loads(SCHEMA_FILE.read_text()))

    result = judge(*allow, *CLAIMS)
    assert "was not found" not in result.stdout.str()
    assert [entry["note"] for entry in report()["allowances"]] == [None, None, None]
    judge(*allow, "genmodel::checkpoint")
    assert [entry["note"] for entry in report()["allowances"]] == [None, None, None]


def test_allowances_hold_in_workers_of_xdist(judge, report):
    arguments = (
        "--genmodel-allow=GM401: meant",
        "--genmodel-allow=GM403: old",
        "--genmodel-allow=GM412: seen",
    )

    result = judge(*arguments, "-n1", "-p", "no:cacheprovider", subprocess=True)

    assert result.ret == pytest.ExitCode.OK
    assert [entry["found"] for entry in report()["allowances"]] == [True, False, True]
    assert report()["allowances"][1]["note"]


def test_code_that_only_the_workers_know_to_be_unknown_is_one_line_too(judge):
    result = judge("--genmodel-allow=ACME1: why", "-n1", "-p", "no:cacheprovider", subprocess=True)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "--genmodel-allow=ACME1: why: no rule has the code ACME1" in result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()


def test_replay_carries_the_allowances(judge, report):
    judge("--genmodel-allow=GM401@scheduler: it is meant", *CLAIMS)
    assert "'--genmodel-allow=GM401@scheduler: it is meant'" in report()["command"]["options"]


def test_audit_misses_what_is_allowed(run, pytester, report):
    """An allowed code is a hole in the gate, and the score shows it; one tied to a digest is none."""
    fault = (
        "--genmodel-audit",
        "--genmodel-level=static",
        "--genmodel-ref={healthy}",
        "--genmodel-json=report.json",
    )
    only = ("--genmodel-expect=identical", "-k", "one_bit_flipped or same_weights")
    outcomes = {}
    for allow in ("GM301: meant", "GM301#sha256:0123456789ab: meant"):
        run(*fault, f"--genmodel-allow={allow}", *only, candidate=False)
        [found] = report()["audit"]["faults"]
        outcomes[allow[:6]] = found["outcome"]
    assert outcomes == {"GM301:": "missed", "GM301#": "caught"}


def test_missing_tensor_is_not_hidden_by_another_code(run, copy):
    drop_tensors(copy / TRANSFORMER, "proj_out.bias")
    arguments = ("--genmodel-level=static", "-k", "coverage", f"--genmodel-ckpt={copy}")
    assert ran(run(*arguments, "--genmodel-allow=GM202: meant", candidate=False)) == {"failed": 1}
    assert ran(run(*arguments, "--genmodel-allow=GM201: meant", candidate=False)) == {"passed": 1}
