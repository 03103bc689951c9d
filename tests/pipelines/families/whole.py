"""What is asked of every family: the tiny pipeline is equal everywhere and alive, and the suite passes on it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from pytest_genmodel.invariants.verdict import Outcome, Verdict
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.session import GenmodelSession
from pytest_genmodel.settings import Settings
from pytest_genmodel.suite import SUITE


def digest(pipeline) -> str:
    """One number for every tensor of every component, and for what the tokenizers do."""
    whole = hashlib.sha256()
    for name, part in sorted(pipeline.components.items()):
        if isinstance(part, torch.nn.Module):
            for key, tensor in sorted(part.state_dict().items()):
                whole.update(f"{name} {key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                whole.update(tensor.contiguous().numpy().tobytes())
        elif "tokenizer" in name:
            whole.update(repr(part("a red square moves right, zebra 4k").input_ids).encode())
    return whole.hexdigest()


@cache
def digests_elsewhere() -> dict[str, str]:
    """The digest of each pipeline that is built, by name, as another process builds it."""
    code = (
        "import json; from tests.pipelines.families.whole import digest, tiny; "
        "print(json.dumps({n: digest(tiny.build(n)) for n in tiny.names() if not tiny.shipped_folder(n)}))"
    )
    root = Path(__file__).parents[3]
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    found: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    return found


def check_build(name: str) -> None:
    """Equal in this process and in another one, in eval mode, no tensor constant, the random state left alone."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pipeline = tiny.build(name)
    assert torch.equal(torch.rand(2), expected)
    assert digest(pipeline) == digests_elsewhere()[name]
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            assert not any(module.training for module in part.modules())
            tensors = part.state_dict()
            assert not [
                k for k, t in tensors.items() if t.numel() > 1 and t.is_floating_point() and t.std() == 0
            ]


@cache
def verdicts(name: str) -> dict[str, Verdict]:
    """The verdict of each claim of the suite on `tiny:name`, itself the reference."""
    spec = f"tiny:{name}"
    session = GenmodelSession(Settings(candidates=(spec,), reference=spec))
    try:
        return {
            claim.name: session.judge(0, claim.invariant, dict(claim.parameters))
            for claims in SUITE.values()
            for claim in claims
        }
    finally:
        session.close()


UNTRAINED = ("sound_prediction", "sound_autoencoder")
"""Claims that random weights cannot be held to."""
INSIDE = 0.8
"""Of the limit: how near to it the errors of a healthy pipeline may come."""


def check_suite(name: str, *, skipped: tuple[str, ...] = (), noted: tuple[str, ...] = ()) -> None:
    """Each claim passes without a finding, but for those that are `skipped`; `noted` are codes given as notes.

    What the level leaves out is left out here too.
    """
    for claim, verdict in verdicts(name).items():
        codes = [finding.code for finding in verdict.findings]
        assert codes == [code for code in noted if code in codes], (claim, verdict.findings)
        if verdict.outcome is Outcome.SKIPPED:
            assert (
                claim in (*skipped, *UNTRAINED)
                or "--genmodel-level" in str(verdict.reason)
                or (claim == "padding_is_ignored" and "padding" in str(verdict.reason))
            ), (claim, verdict.reason)
        else:
            assert verdict.outcome is Outcome.PASSED, (claim, verdict.reason)
            assert claim not in skipped
        if claim == "neutral_transformations":
            # A limit that healthy models all but reach would raise a false alarm on the next machine.
            assert max(verdict.measurements["errors_over_limit"].values()) < INSIDE


def places(verdict: Verdict) -> set[tuple[str, str | None, str | None]]:
    """Code, component and location of every finding of a verdict that failed."""
    assert verdict.outcome is Outcome.FAILED, verdict
    return {(finding.code, finding.component, finding.location) for finding in verdict.findings}
