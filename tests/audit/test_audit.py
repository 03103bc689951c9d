"""--genmodel-audit: which faults a gate would catch, counted as pytest items."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_genmodel.audit.audit import Audit
from pytest_genmodel.audit.result import ClaimResult, Result, Score
from pytest_genmodel.audit.subject import write_adapter
from pytest_genmodel.audit.summary import write_summary
from pytest_genmodel.diagnosis.allowance import parse
from pytest_genmodel.faults.copy import LINKED_FROM, Copy, clone
from pytest_genmodel.faults.registry import all_faults
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.suite import Claim

STATIC = ("--genmodel-audit", "--genmodel-level=static")
REF = "--genmodel-ref={healthy}"


@pytest.fixture
def audited(run, report):
    """Run an audit of the tiny pipeline; gives the run and the report's section."""

    def call(*arguments: str):
        result = run(*STATIC, REF, "--genmodel-json=report.json", *arguments, candidate=False)
        return result, report()["audit"]

    return call


def outcomes(section) -> dict[str, str]:
    return {fault["fault"]: fault["outcome"] for fault in section["faults"]}


def test_each_fault_is_an_item_and_none_is_collected_without_the_option(run):
    plain = run("--collect-only", "-q")
    audit = run("--genmodel-audit", "--collect-only", "-q")

    assert not any("::audit::" in line for line in plain.outlines)
    ids = [line for line in audit.outlines if "::" in line]
    assert ids[0] == "genmodel::audit::control"
    assert {line.rpartition("::")[2] for line in ids[1:]} == set(all_faults())


def test_caught_passes_missed_is_expected_to_fail_and_the_run_is_green(audited):
    result, section = audited("-k", "not_a_number or average_ran_away or control")

    result.assert_outcomes(passed=3, xfailed=1)
    assert result.ret == 0
    assert outcomes(section) == {
        "not_a_number": "caught",
        "not_a_number_in_the_vae": "caught",
        "average_ran_away": "missed",
    }
    assert (section["judged"], section["score"]) == (3, 0.6667)
    result.stdout.fnmatch_lines(["*the gate catches 2 of 3 faults (67%)*", "*would pass:*"])


def test_claims_are_chosen_like_faults(audited):
    _, section = audited("-k", "same_config or scaling_factor_not_written or not_a_number")

    assert outcomes(section)["scaling_factor_not_written"] == "caught"
    assert outcomes(section)["not_a_number"] == "missed"
    assert list(section["claims"]) == ["same_config"]


def test_claims_and_faults_are_chosen_by_their_ids(audited):
    _, section = audited("genmodel::checkpoint::coverage", "genmodel::audit::tensor_missing")

    assert (outcomes(section), list(section["claims"])) == ({"tensor_missing": "caught"}, ["coverage"])


def test_a_fault_without_its_part_is_not_applicable_and_counts_nowhere(audited):
    result, section = audited("genmodel::audit::experts_exchanged", "genmodel::audit::tensor_missing")

    result.assert_outcomes(passed=1, skipped=1)
    assert outcomes(section)["experts_exchanged"] == "not_applicable"
    assert (section["judged"], section["score"]) == (1, 1.0)


def test_too_small_a_share_fails_where_one_was_asked_for(audited):
    few = (
        "genmodel::checkpoint::coverage",
        "genmodel::audit::not_a_number",
        "genmodel::audit::tensor_missing",
    )

    assert audited(*few, "--genmodel-audit-min=0.5")[0].ret == 0
    assert audited(*few, "--genmodel-audit-min=0.9")[0].ret == 1


def test_warnings_pass_a_gate_that_is_not_strict(audited):
    assert outcomes(audited("genmodel::audit::alpha_lost")[1]) == {"alpha_lost": "warned"}
    assert outcomes(audited("genmodel::audit::alpha_lost", "--genmodel-strict")[1]) == {
        "alpha_lost": "caught"
    }


def test_fault_that_is_allowed_is_missed_for_that_reason(audited):
    gate = ("genmodel::checkpoint::same_config", "genmodel::audit::scaling_factor_not_written")

    result, section = audited(*gate, "--genmodel-allow=GM401@vae: the decoder was made anew")

    (fault,) = section["faults"]
    assert fault["outcome"] == "missed"
    assert fault["reason"] == "allowed by --genmodel-allow GM401@vae (same_config)"
    result.stdout.fnmatch_lines(
        ["*scaling_factor_not_written: *", "*allowed by --genmodel-allow GM401@vae *"]
    )


def test_allowance_that_the_healthy_model_needs_is_no_reason_for_a_fault(audit, healthy, tmp_path):
    tuned = clone(healthy, tmp_path / "candidate")
    Copy(tuned).set("vae", scaling_factor=0.5)
    allow = (parse("GM401@vae: on purpose"),)

    audit = audit(("same_config",), candidates=(str(tuned),), allow=allow)
    result = audit.run(all_faults()["not_a_number"])

    assert (result.outcome, result.reason) == ("missed", "every claim of the gate holds")
    assert audit.control("checkpoint")["same_config"].outcome == "passed"


def test_fine_tune_is_the_healthy_model_where_one_is_expected(audited):
    _, section = audited(
        "--genmodel-expect=finetuned", "-k", "nothing_trained or frozen_part_changed or same_weights"
    )

    assert outcomes(section) == {"nothing_trained": "caught", "frozen_part_changed": "caught"}


def test_unsound_model_cannot_be_audited(run, copy):
    from tests.editing import TO_Q, TRANSFORMER, drop_tensors

    drop_tensors(copy / TRANSFORMER, TO_Q)

    result = run(*STATIC, f"--genmodel-ckpt={copy}", "-k", "control or not_a_number", candidate=False)

    assert result.ret == 1
    result.assert_outcomes(failed=1, skipped=2)
    result.stdout.fnmatch_lines(["*cannot judge the gate: the healthy model does not pass coverage*"])


def test_markers_of_the_users_own_tests_belong_to_the_gate(audited, pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.invariant("coverage")
        def test_marked(): pass

        def test_plain(): assert False
        """
    )

    result, section = audited("-k", "marked or plain or tensor_missing")

    assert (outcomes(section), list(section["claims"])) == ({"tensor_missing": "caught"}, ["coverage"])
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*1 tests of your own without an invariant marker*"])


def test_workers_of_xdist_count_together(run, report):
    pytest.importorskip("xdist")

    result = run(
        *STATIC, REF, "-n2", "-k", "swapped or tensor_missing", "--genmodel-json=report.json", candidate=False
    )

    assert result.ret == 0
    assert set(outcomes(report()["audit"])) >= {"blocks_swapped", "tensor_missing"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--genmodel-audit"], "*give it as --genmodel-ref"),
        (["--genmodel-audit", "--genmodel-ckpt=a", "--genmodel-ckpt=b"], "*takes one candidate*"),
        (["--genmodel-audit", REF, "--genmodel-no-suite"], "*cannot both*"),
        (["--genmodel-audit", REF, "--genmodel-audit-min=2"], "*a number from 0 to 1*"),
    ],
)
def test_wrong_usage_is_said_in_one_line(run, arguments, said):
    result = run(*arguments, candidate=False)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {said}"])


def test_report_keeps_its_schema(audited):
    jsonschema = pytest.importorskip("jsonschema")
    from pytest_genmodel.reports.report import SCHEMA_FILE

    audited("genmodel::audit::tensor_missing")

    jsonschema.validate(json.loads(Path("report.json").read_text()), json.loads(SCHEMA_FILE.read_text()))


@pytest.fixture
def audit(healthy):
    """An audit without pytest: `audit(settings)`."""
    made: list[SimpleNamespace] = []

    def make(gate: tuple[str, ...] = ("coverage",), seconds: float = 600, **settings) -> Audit:
        given = {"candidates": (str(healthy),), "reference": str(healthy), "level": "static"} | settings
        session = GenmodelSession(Settings(**given))
        found = Audit(session, [Claim(name) for name in gate], seconds)
        made.append(SimpleNamespace(session=session, audit=found))
        return found

    yield make
    for one in made:
        one.audit.close()
        one.session.close()


def test_every_fault_of_a_lora_is_judged(audit):
    audit = audit(("coverage", "sound_weights"))
    faults = [fault for fault in all_faults().values() if fault.kind == "adapter"]

    results = {fault.name: audit.run(fault) for fault in faults}

    assert {result.outcome for result in results.values()} <= {"caught", "warned", "missed"}
    assert results["half_of_a_pair"].reason.startswith("coverage GM801 at transformer_blocks.0.attn1.to_k")
    assert results["two_alphas"].reason == "sound_weights GM806 at transformer_blocks.0.attn1.to_k"
    assert "GM803" in results["alpha_lost"].reason


def test_time_that_is_used_up_begins_no_further_fault(audit):
    audit = audit(seconds=0)
    faults = [all_faults()[name] for name in ("tensor_missing", "half_of_the_tensors")]

    assert [audit.run(fault).outcome for fault in faults] == ["caught", "not_run"]


def test_model_is_left_alone_and_nothing_stays_behind(audit, healthy):
    def digest() -> str:
        return hashlib.sha256(
            b"".join(p.read_bytes() for p in sorted(healthy.rglob("*")) if p.is_file())
        ).hexdigest()

    before, audit = digest(), audit(("coverage", "sound_weights"))
    for name in ("download_broken_off", "configuration_is_no_json", "scaled_float8", "file_cut_short"):
        assert audit.run(all_faults()[name]).outcome == "caught"

    assert digest() == before
    assert not list((audit._genmodel.workdir / "audit").iterdir())


def test_broken_library_is_whole_again_afterwards(audit):
    from diffusers import CogVideoXImageToVideoPipeline

    fault, method = all_faults()["latents_scaled_the_wrong_way"], CogVideoXImageToVideoPipeline.decode_latents

    assert audit().run(fault).outcome == "missed"
    assert CogVideoXImageToVideoPipeline.decode_latents is method


def test_large_files_of_a_copy_are_links_until_they_are_changed(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(bytes(LINKED_FROM))
    (source / "small").write_bytes(b"1")

    copy = Copy(clone(source, tmp_path / "copy"))

    assert (copy.folder / "large").is_symlink()
    assert not (copy.folder / "small").is_symlink()
    copy.write(copy.folder / "large", b"other")
    assert (source / "large").stat().st_size == LINKED_FROM


def test_adapter_is_written_without_a_model(judged, healthy, tmp_path):
    adapter = write_adapter(healthy, tmp_path / "adapter")

    verdict = judged("coverage", adapter, healthy)

    assert (verdict.outcome.value, verdict.findings) == ("passed", ())


def test_claims_that_did_nothing_are_no_rows_of_the_table():
    control = [ClaimResult(name, "passed", 1.0) for name in ("coverage", "same_weights", "zero_lr_identity")]
    said = (ClaimResult("coverage", "failed", 1.0), ClaimResult("same_weights", "passed", 0.5))
    score = Score([Result("nan", "a NaN", "weights", "candidate", "caught", claims=said)], control)
    lines: list[str] = []
    terminal = SimpleNamespace(
        write_sep=lambda *_: None,
        write_line=lambda line, **_: lines.append(line),
        _tw=SimpleNamespace(fullwidth=80),
    )

    write_summary(terminal, score, Settings(candidates=("base",)), 0)

    table = [line.split() for line in lines]
    assert ["coverage", "1", "1", "1.0"] in table
    assert ["same_weights", "0", "0", "0.5"] in table, "it took time, and could be left out"
    assert "  nothing caught, nothing spent: zero_lr_identity" in lines
