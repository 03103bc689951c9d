"""General rules: 0xx."""

from __future__ import annotations

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

RULES = (
    Rule(
        "GM010",
        "assertion of an invariant failed",
        "An invariant of the project's own was written with an assert, and the assert failed.",
        "Read what the assertion says; give the invariant a rule code of its own to explain it.",
        example="@invariant\n"
        "def logo_survives(context):\n"
        "    frame = context.candidate.sample(context.probe).frames[0]\n"
        "    assert frame[:, :8, :8].mean() > 0.5",
    ),
    Rule(
        "GM030",
        "allowance that nothing needs",
        "Something is allowed on purpose, and the claim came to its end without finding it. The allowance would keep "
        "silent when the fault comes back for another reason.",
        "Remove the allowance, or narrow it to what is still found.",
        Severity.NOTE,
        example='@pytest.mark.invariant("same_config", allow={"GM401": "the new shift"})\n'
        "def test_candidate(candidate): ...\n"
        "# same_config finds no GM401: the shift is the reference's again",
    ),
)
