"""The zero-LR gate around a trainer: what shows its work, and what may go wrong with it, each said and localised."""

from __future__ import annotations

import shutil

import pytest

from pytest_genmodel.invariants.verdict import Outcome
from tests.training.small_trainer import SAVE, STATE, write

PASSED = (Outcome.PASSED, [])


def outcome(verdict):
    return verdict.outcome, [finding.code for finding in verdict.findings]


@pytest.fixture
def zero(judged, healthy, tmp_path):
    """Judge zero_lr_identity with the small trainer, edited: `zero((old, new), ..., watched=True, **settings)`."""

    def judge(*edits, watched=True, candidate=None, **settings):
        command = write(tmp_path, *edits, watched=watched)
        return judged("zero_lr_identity", candidate or healthy, parameters={"trainer": command}, **settings)

    return judge


def test_healthy_trainer_passes_by_the_watch_alone(zero):
    verdict = zero()

    assert outcome(verdict) == PASSED
    assert verdict.measurements["proof"] == "every step was watched"
    assert "control" not in verdict.measurements
    assert verdict.measurements["components"]["transformer"] == {
        "tensors": 65,
        "changed": 0,
        "rounded": 0,
        "missing": 0,
    }
    assert verdict.measurements["in_process"].endswith("trained parameters began as they are at rest")
    assert verdict.measurements["sample"].startswith("proven equal")


def test_trainer_elsewhere_passes_by_its_files_and_a_control_run(zero):
    verdict = zero((SAVE, SAVE + STATE), watched=False)

    assert outcome(verdict) == PASSED
    assert verdict.measurements["proof"] == "by files: checkpoint-2/optimizer.bin"
    assert (verdict.measurements["steps"], verdict.measurements["largest_rate"]) == (2, 0.0)
    assert verdict.measurements["control"].startswith("at lr 0.001 ")


def test_trainer_elsewhere_that_leaves_no_state_cannot_be_judged(zero):
    verdict = zero(watched=False)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "left no optimizer state" in verdict.reason
    assert "a run at a positive rate does change what is written" in verdict.reason


def test_trainer_elsewhere_is_judged_by_its_files(zero):
    [finding] = zero((SAVE, SAVE + STATE), ("optimizer.step()", "pass"), watched=False).findings

    assert finding.code == "GM709"


def test_rate_is_read_from_the_files_where_nothing_was_watched(zero):
    verdict = zero((SAVE, SAVE + STATE), ("lr=rate", "lr=rate or 1e-4"), watched=False)

    first = verdict.findings[0]
    assert (first.code, first.location) == ("GM701", "checkpoint-2/optimizer.bin")
    assert verdict.measurements["changed_at"] == "the optimizer"


BASE_AGAIN = "\nsave_file(load_file(reference / FILE), output / FILE)\n"


@pytest.mark.parametrize("watched", [True, False])
def test_trainer_that_saves_the_base_again_is_caught_by_the_control_run(zero, watched):
    verdict = zero((SAVE, SAVE + STATE + BASE_AGAIN), watched=watched)

    assert outcome(verdict) == (Outcome.FAILED, ["GM709"])
    assert "a control run at the rate 0.001" in verdict.findings[0].message


NEVER_RAN = "shutil.{how}(reference, output, dirs_exist_ok=True); sys.exit()\n# begin"


@pytest.mark.parametrize("watched", [True, False])
def test_trainer_that_never_ran_does_not_pass(zero, watched):
    verdict = zero(("# begin", NEVER_RAN.format(how="copytree")), watched=watched)

    assert verdict.outcome is Outcome.FAILED
    assert "GM710" in outcome(verdict)[1]


def test_trainer_elsewhere_that_copies_the_model_anew_does_not_pass(zero):
    anew = "copy_function=shutil.copyfile, dirs_exist_ok=True"
    copies = f"shutil.copytree(reference, output, {anew}); sys.exit()\n# begin"

    assert outcome(zero(("# begin", copies), watched=False)) == (Outcome.FAILED, ["GM709"])


REFUSES = ("# begin", "assert rate > 0, 'learning rate must be positive'\n# begin")


def test_trainer_that_refuses_zero_is_offered_what_is_zero_all_the_same(zero):
    [finding] = zero(REFUSES).findings

    assert finding.code == "GM711"
    assert "refuses the rate 0" in finding.cause
    assert "--genmodel-zero-lr=1e-46" in finding.action


def test_smallest_rate_is_written_so_and_counts_as_zero(zero):
    verdict = zero(REFUSES, ("# end", "assert sys.argv[3] == '1e-46'"), zero_rate=1e-46)

    assert outcome(verdict) == PASSED
    assert verdict.measurements["largest_rate"] == 1e-46


def test_function_that_refuses_zero_is_offered_it_too(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        raise ValueError(f"Invalid learning rate: {lr}")

    verdict = judged("zero_lr_identity", healthy, parameters={"trainer": trainer})

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "--genmodel-zero-lr=1e-46" in verdict.reason


EACH_STEP = "\nsave(output / 'checkpoint-1')\nsave(output / 'checkpoint-2')\n"


def test_several_results_are_listed_with_how_to_choose(zero):
    [finding] = zero((SAVE, EACH_STEP)).findings

    assert (finding.code, finding.evidence) == ("GM714", {"results": ["checkpoint-1", "checkpoint-2"]})
    assert "--genmodel-train-result" in finding.action


@pytest.mark.parametrize("choice", ["checkpoint-{steps}", "@latest"])
def test_result_that_is_named_is_taken(zero, choice):
    assert outcome(zero((SAVE, EACH_STEP), train_result=choice)) == PASSED


def test_result_in_a_folder_of_the_trainers_own_is_taken(zero):
    assert outcome(zero((SAVE, "\nsave(output / 'run-2024-05-01_12-00')\n"))) == PASSED


def test_trainer_that_starts_from_a_new_initialisation_is_caught_before_training(zero):
    fresh = (
        "tensors = {n: torch.randn_like(t) if t.dtype == torch.float32 else t for n, t in tensors.items()}\n"
    )
    verdict = zero(("parameters = {n", fresh + "parameters = {n"))

    first = verdict.findings[0]
    assert (first.code, first.location, first.component) == ("GM716", "the trainer's load", "transformer")
    assert "new initialisation" in first.cause
    assert verdict.measurements["changed_at"] == "the trainer's load"


def test_trainer_that_loads_in_half_precision_is_caught_before_training(zero):
    half = ("torch.nn.Parameter(t) for", "torch.nn.Parameter(t.bfloat16()) for")
    saved = ("{n: p.data for", "{n: p.data.float() for")

    [finding] = zero(half, saved).findings

    assert finding.code == "GM716"
    assert "bfloat16, which cannot hold its values" in finding.cause


def test_trainer_that_writes_into_its_copy_is_told(zero):
    verdict = zero(("# end", "(reference / 'cache.txt').write_text('x')"))

    assert [(f.code, f.location) for f in verdict.findings] == [("GM712", "cache.txt")]


def test_trainer_that_reaches_the_original_is_told(zero, healthy, tmp_path):
    original = shutil.copytree(healthy, tmp_path / "original")
    reach = f"Path({str(original / 'model_index.json')!r}).open('a').write(' ')"

    verdict = zero(("# end", reach), candidate=original)

    assert [(f.code, f.location) for f in verdict.findings] == [("GM715", "original/model_index.json")]


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (
            "import a_package_that_is_not_there",
            "a_package_that_is_not_there is not installed where the trainer runs",
        ),
        ("torch.zeros(1).cuda()", "the trainer needs a GPU, and this machine has none that torch can use"),
    ],
)
def test_reason_of_a_failure_is_the_cause_of_the_finding(zero, code, cause):
    verdict = zero(("# begin", code))

    [finding] = verdict.findings
    assert (finding.code, finding.cause) == ("GM711", cause)
    [(title, text)] = verdict.attachments.items()
    assert title == "output of the trainer at lr 0"
    assert code.split()[-1] in text


def test_work_folder_may_have_a_space_in_its_name(zero, tmp_path, monkeypatch):
    spaced = tmp_path / "a folder"
    spaced.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spaced))

    assert outcome(zero()) == PASSED


def test_one_run_serves_both_claims(healthy, tmp_path):
    from pytest_genmodel.session import GenmodelSession
    from pytest_genmodel.settings import Settings

    counter = tmp_path / "runs.txt"
    command = write(
        tmp_path,
        (SAVE, SAVE + STATE),
        ("# begin", f"Path({str(counter)!r}).open('a').write(sys.argv[3] + '\\n')"),
        watched=False,
    )
    session = GenmodelSession(Settings(candidates=(str(healthy),)))
    try:
        verdicts = [
            session.judge(0, name, {"trainer": command}) for name in ("zero_lr_identity", "learning_moves")
        ]
    finally:
        session.close()

    # The control run of the first is the run that the second judges.
    assert counter.read_text().split() == ["0.0", "0.001"]
    assert outcome(verdicts[0]) == PASSED
    assert "GM711" not in outcome(verdicts[1])[1]


def test_half_a_result_of_a_run_that_failed_is_no_result(zero):
    verdict = zero(("# end", "(output / FILE).write_bytes(b'cut'); sys.exit(3)"))

    assert outcome(verdict)[1][0] == "GM711"
    assert "exit status 3" in verdict.findings[0].message
