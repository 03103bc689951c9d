"""A trainer and an inference that the project's conftest names, where no option does."""

from __future__ import annotations

import json

import pytest

TRAINER = """
from pathlib import Path
from pytest_genmodel.training.full import train_full


def train(reference, *, lr, steps, seed, output):
    return train_full(Path(reference), lr=lr, steps=steps, seed=seed, output=Path(output))


def forgetful(reference, *, lr, steps, seed, output):
    return train_full(Path(reference), lr=lr or 1e-3, steps=steps, seed=seed, output=Path(output))


def frozen(candidate, *, probe):
    import numpy
    return numpy.zeros((probe.frames, probe.height, probe.width, 3), "uint8")


def pytest_genmodel_{hook}(config):
    return {given}
"""


@pytest.fixture
def hooked(run, pytester):
    def hooked(hook: str, given: str, *options: str) -> pytest.RunResult:
        pytester.makeconftest(TRAINER.format(hook=hook, given=given))
        return run("-v", *options)

    return hooked


def test_the_trainer_of_the_project_takes_the_place_of_the_built_in_ones(hooked, pytester):
    result = hooked("trainer", "train", "-k", "zero_lr", "--genmodel-json=report.json")

    assert (result.ret, result.parseoutcomes()["passed"]) == (0, 1)
    result.stdout.fnmatch_lines(["genmodel::training::zero_lr_identity[[]trainer[]]*"])
    (verdict,) = json.loads((pytester.path / "report.json").read_text())["verdicts"]
    assert verdict["parameters"] == {"trainer": "train"}


def test_what_it_does_wrong_is_found(hooked):
    result = hooked("trainer", "forgetful", "-k", "zero_lr")

    assert result.ret == 1
    result.stdout.fnmatch_lines(["*GM701*", "*trainer*"])


def test_an_option_goes_before_the_hook(hooked, pytester):
    pytester.makepyfile(own=TRAINER.format(hook="none", given="None"))
    pytester.makeini("[pytest]\npythonpath = .\n")

    result = hooked("trainer", "forgetful", "-k", "zero_lr", "--genmodel-trainer=own:train")

    assert (result.ret, result.parseoutcomes()["passed"]) == (0, 1)


def test_the_inference_of_the_project_is_compared_with_ours(hooked):
    result = hooked("sampler", "frozen", "-k", "own_inference")

    assert result.ret == 1
    result.stdout.fnmatch_lines(["*GM83*"])


def test_a_hook_that_has_nothing_to_say_changes_nothing(hooked):
    result = hooked("trainer", "None", "--collect-only", "-q")

    result.stdout.fnmatch_lines(["*zero_lr_identity[[]full[]]*"])


@pytest.mark.parametrize(
    ("hook", "given", "said"),
    [
        (
            "trainer",
            "7",
            "*pytest_genmodel_trainer: a function, or a text that names one, was expected, not 7*",
        ),
        ("trainer", "'ful'", "*no trainer is called 'ful'; did you mean 'full'?*"),
        ("sampler", "'no_such_module:sample'", "*no_such_module:sample cannot be imported*"),
    ],
)
def test_a_wrong_value_is_said_in_one_line(hooked, hook, given, said):
    result = hooked(hook, given)

    assert result.ret == 2
    result.stdout.fnmatch_lines([said])
    assert "Traceback" not in result.stdout.str()
