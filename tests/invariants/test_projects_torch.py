"""What a project's conftest sets in torch for code of its own is no part of the model."""

from __future__ import annotations

import pytest
import torch

from pytest_genmodel.invariants.verdict import Outcome
from pytest_genmodel.pipelines.torch_defaults import own_defaults, project_defaults


@pytest.fixture
def set_by_project():
    """Set a default of torch for the length of a test."""
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)


@pytest.mark.usefixtures("set_by_project")
@pytest.mark.parametrize("claim", ["same_config", "sound_schedule", "absolute_checks"])
@pytest.mark.parametrize("what", [torch.bfloat16, torch.device("meta")], ids=str)
def test_default_dtype_and_device_change_no_verdict(judged, healthy, claim, what):
    setter = torch.set_default_dtype if isinstance(what, torch.dtype) else torch.set_default_device
    setter(what)

    verdict = judged(claim, healthy, healthy)

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())


@pytest.mark.usefixtures("set_by_project")
def test_gradients_that_are_off_stop_no_training(judged, healthy):
    torch.set_grad_enabled(False)

    verdict = judged("learning_moves", healthy, parameters={"trainer": "full"})

    assert (verdict.outcome, verdict.findings) == (Outcome.PASSED, ())
    assert not torch.is_grad_enabled()


@pytest.mark.usefixtures("set_by_project")
def test_trainer_of_the_project_has_the_projects_defaults(judged, healthy):
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("meta")
    seen = []

    def trainer(reference, *, lr, steps, seed, output):
        seen.append((torch.zeros(()).dtype, torch.zeros(()).device.type))
        raise RuntimeError("that is all")

    verdict = judged("learning_moves", healthy, parameters={"trainer": trainer})

    assert "that is all" in verdict.reason
    assert seen == [(torch.bfloat16, "meta")]
    assert (torch.get_default_dtype(), torch.get_default_device().type) == (torch.bfloat16, "meta")


@pytest.mark.usefixtures("set_by_project")
def test_defaults_come_back_after_an_error():
    torch.set_default_dtype(torch.float64)

    def broken():
        with own_defaults():
            assert torch.zeros(()).dtype == torch.float32
            with project_defaults():
                assert torch.zeros(()).dtype == torch.float64
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()

    assert torch.zeros(()).dtype == torch.float64
    with project_defaults():
        assert torch.zeros(()).dtype == torch.float64
