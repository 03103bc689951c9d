"""resume_is_exact: with the built-in trainers, a loop of one's own, and the example script, each whole and broken."""

from __future__ import annotations

import shutil
import sys
from functools import wraps
from pathlib import Path

import pytest
import torch

from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.training import loop
from pytest_genmodel.training.full import train_full
from pytest_genmodel.training.resuming import ResumeArguments, newest_state
from tests.invariants import own_loop

SCRIPT = Path(__file__).parents[2] / "examples" / "train_cogvideox_i2v.py"
ARGUMENTS = (
    "--pretrained_model_name_or_path {reference} --instance_data_root {dataset} --output_dir {output} "
    "--learning_rate {lr} --max_train_steps {steps} --checkpointing_steps 1 --seed {seed}"
)


def codes(verdict):
    return [finding.code for finding in verdict.findings]


@pytest.mark.parametrize("trainer", ["full", "lora"])
@pytest.mark.parametrize("steps", [1, 2])
def test_built_in_trainers_go_on_as_if_they_had_never_stopped(judged, healthy, trainer, steps):
    verdict = judged("resume_is_exact", healthy, parameters={"trainer": trainer, "steps": steps})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["state"] == f"checkpoint-{2 * steps}"
    assert verdict.measurements["no_step_left"] == "every stored tensor is equal"


load_state = loop.load_state


def without_moments(folder, parameters, optimizer, generator):
    step = load_state(folder, parameters, optimizer, generator)
    optimizer.state.clear()
    return step


def with_repeated_noise(folder, parameters, optimizer, generator):
    return load_state(folder, parameters, optimizer, torch.Generator())


def rounded(folder, parameters, optimizer, generator):
    step = load_state(folder, parameters, optimizer, generator)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(parameter.bfloat16())
    return step


def weights_forgotten(folder, parameters, optimizer, generator):
    fresh = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    step = load_state(folder, parameters, optimizer, generator)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(fresh[name])
    return step


def one_step_too_many(folder, parameters, optimizer, generator):
    return load_state(folder, parameters, optimizer, generator) - 1


def one_step_too_few(folder, parameters, optimizer, generator):
    return load_state(folder, parameters, optimizer, generator) + 1


def not_found(folder, parameters, optimizer, generator):
    return 0


@pytest.mark.parametrize("trainer", ["full", "lora"])
@pytest.mark.parametrize(
    ("broken", "code", "location", "cause"),
    [
        (without_moments, "GM721", "step 2", "its state was not restored"),
        (with_repeated_noise, "GM723", "step 2", "generator of the loop's own was not restored"),
        (rounded, "GM720", "", "bfloat16"),
        (weights_forgotten, "GM720", "", ""),
        (one_step_too_many, "GM724", "step 2", "one off"),
        (one_step_too_few, "GM724", "step 2", "one off"),
        (not_found, "GM724", "step 2", "it started from the beginning: no state was found"),
    ],
)
def test_what_the_built_in_trainers_do_not_restore_is_caught(
    judged, healthy, monkeypatch, trainer, broken, code, location, cause
):
    monkeypatch.setattr(loop, "load_state", broken)

    verdict = judged("resume_is_exact", healthy, parameters={"trainer": trainer})

    assert verdict.outcome is Outcome.FAILED
    first = verdict.findings[0]
    assert (first.code, location in first.location, cause in (first.cause or first.message)) == (
        code,
        True,
        True,
    ), verdict.findings


def test_loop_of_ones_own_goes_on_as_if_it_had_never_stopped(judged, healthy):
    verdict = judged("resume_is_exact", healthy, parameters={"trainer": own_loop.train})

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)


@pytest.mark.parametrize(
    ("forgotten", "code", "location"),
    [
        ("moments", "GM721", "step 2"),
        ("schedule", "GM722", "state.pt:"),
        ("random", "GM723", "step 2"),
        ("order", "GM723", "step 2"),
        ("average", "GM720", "state.pt:average"),
    ],
)
def test_part_that_a_loop_forgets_is_named(judged, healthy, forgotten, code, location):
    @wraps(own_loop.train)
    def trainer(*arguments, **more):
        return own_loop.train(*arguments, forgets=(forgotten,), **more)

    verdict = judged("resume_is_exact", healthy, parameters={"trainer": trainer})

    assert verdict.outcome is Outcome.FAILED
    assert (verdict.findings[0].code, location in verdict.findings[0].location) == (code, True), (
        verdict.findings
    )


def test_trainer_that_does_not_repeat_itself_cannot_be_judged(judged, healthy):
    runs = iter(range(100))

    def trainer(reference, *, lr, steps, seed, output, resume=None, keep_state=False):
        return train_full(
            reference,
            lr=lr,
            steps=steps,
            seed=next(runs),
            output=output,
            resume=resume,
            keep_state=keep_state,
        )

    verdict = judged("resume_is_exact", healthy, parameters={"trainer": trainer})

    assert (verdict.outcome, verdict.findings) == (Outcome.INCONCLUSIVE, ())
    assert "two runs of 2 steps with one seed differ (the gradients of step 1)" in verdict.reason


def test_schedule_that_depends_on_the_number_of_steps_cannot_be_judged(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output, resume=None, keep_state=False):
        return train_full(
            reference,
            lr=lr * steps,
            steps=steps,
            seed=seed,
            output=output,
            resume=resume,
            keep_state=keep_state,
        )

    verdict = judged("resume_is_exact", healthy, parameters={"trainer": trainer})

    assert (verdict.outcome, verdict.findings) == (Outcome.INCONCLUSIVE, ())
    assert "after step 1 is not the beginning of that of 2 steps (the rates of step 1: 0.002 and 0.001)" in (
        verdict.reason
    )


def test_trainer_that_cannot_resume_is_skipped_with_what_to_give(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output):
        raise AssertionError("not run")

    by_function = judged("resume_is_exact", healthy, parameters={"trainer": trainer})
    by_command = judged("resume_is_exact", healthy, parameters={"trainer": "train {reference} {lr} {output}"})

    assert (by_function.outcome, by_command.outcome) == (Outcome.SKIPPED, Outcome.SKIPPED)
    assert "keyword `resume`" in by_function.reason
    assert "--genmodel-resume-args" in by_command.reason


def test_resumed_run_that_writes_nothing_is_caught(judged, healthy):
    def trainer(reference, *, lr, steps, seed, output, resume=None, keep_state=False):
        if resume is not None:
            elsewhere = output.parent / "elsewhere"
            train_full(reference, lr=lr, steps=steps, seed=seed, output=elsewhere, resume=resume)
            shutil.rmtree(elsewhere)
            return output
        return train_full(reference, lr=lr, steps=steps, seed=seed, output=output, keep_state=keep_state)

    verdict = judged("resume_is_exact", healthy, parameters={"trainer": trainer})

    assert codes(verdict) == ["GM710"]
    assert "wrote nothing" in verdict.findings[0].message


def command(script: Path, *more: str) -> str:
    return " ".join([f"'{sys.executable}' '{script}'", ARGUMENTS, *more])


def test_example_script_resumes_exactly(judged, healthy):
    text = command(SCRIPT, "--training_type lora", "--use_ema")

    verdict = judged(
        "resume_is_exact",
        healthy,
        parameters={"trainer": text},
        train_command=text,
        resume_args="--resume_from_checkpoint latest",
    )

    assert (verdict.outcome, verdict.findings, verdict.reason) == (Outcome.PASSED, (), None)
    assert verdict.measurements["state"] == "checkpoint-2"


def test_script_that_finds_no_state_and_says_nothing_is_caught(judged, healthy, tmp_path):
    text = SCRIPT.read_text()
    for old, new in (
        ('raise SystemExit(f"{output} holds no checkpoint to resume from")', "return None"),
        ('output.glob("checkpoint-*")', 'output.glob("step-*")'),
        (
            "    if args.resume_from_checkpoint:\n        state =",
            "    if args.resume_from_checkpoint and state_to_resume('latest', args.output_dir):\n        state =",
        ),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    script = tmp_path / "train.py"
    script.write_text(text)
    line = command(script, "--training_type lora")

    verdict = judged(
        "resume_is_exact",
        healthy,
        parameters={"trainer": line},
        train_command=line,
        resume_args="--resume_from_checkpoint latest",
    )

    [finding] = verdict.findings
    assert (finding.code, finding.location) == ("GM724", "step 2")
    assert "no state was found, and nothing was said" in finding.cause


def test_newest_state_is_the_last_step_or_the_output_itself(tmp_path):
    assert newest_state(tmp_path) == tmp_path
    for name in ("checkpoint-9", "checkpoint-10", "text_encoder_2", "logs"):
        (tmp_path / name).mkdir()
    assert newest_state(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("--resume {resum}", "did you mean {resume}"),
        ("--resume 'x", "cannot be split"),
        ("  ", "are empty"),
    ],
)
def test_resume_arguments_that_cannot_be_are_refused_in_one_line(text, problem):
    with pytest.raises(BadInputError, match=problem):
        ResumeArguments.parse(text)
