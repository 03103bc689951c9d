"""The page of a rule: the one source of `genmodel explain`, `pytest --genmodel-explain` and the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_genmodel.diagnosis.rules.rule import Rule, Severity

_THREAD = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)/(issues|pull|commit)/(\w+)")
_KINDS = {"issues": "issue", "pull": "pull request", "commit": "commit"}
_WEIGHT = {
    Severity.ERROR: "An error: it fails the verdict.",
    Severity.WARNING: "A warning: it fails the verdict under `--genmodel-strict` only.",
    Severity.NOTE: "A note: it never fails a verdict.",
}


@dataclass(frozen=True)
class Section:
    """A part of a page: paragraphs, then a list of points, then an example as it stands.

    Text is Markdown of the plainest kind: code in backticks, and nothing else.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    example: str = ""


def sections(
    rule: Rule, said_by: Sequence[str] = (), faults: Sequence[tuple[str, str]] = ()
) -> tuple[Section, ...]:
    """The page of `rule` in the order in which it is read.

    Args:
        rule: what the page is about.
        said_by: names of invariants that can say it.
        faults: faults that show it on purpose, each with its name and what it imitates.
    """
    return tuple(_sections(rule, said_by, faults))


def _sections(rule: Rule, said_by: Sequence[str], faults: Sequence[tuple[str, str]]) -> Iterator[Section]:
    yield Section("What it means, and why it matters", (rule.meaning, _WEIGHT[rule.severity]))
    if rule.seen_in:
        yield Section("Where it was met", points=tuple(rule.seen_in))
    if rule.example:
        yield Section("Example", example=rule.example)
    yield Section("How to fix it", (rule.action,))
    if said_by:
        names = [f"`{name}`" for name in said_by]
        yield Section(
            "Which invariants say it", (f"{_listed(names)}, and possibly others that look at the same.",)
        )
    if faults:
        yield Section(
            "Faults that show it",
            ("Injected on purpose, and caught with this code:",),
            tuple(f"`{name}`: {summary}" for name, summary in faults),
        )
    yield _allowing(rule)


def _allowing(rule: Rule) -> Section:
    title = "How to allow it on purpose"
    if re.fullmatch(r"GM0\d\d", rule.code):
        return Section(title, ("It cannot be allowed: it is no finding about a candidate.",))
    if rule.severity is Severity.NOTE:
        return Section(title, ("Nothing to do: a note fails nothing.",))
    return Section(
        title,
        (
            "Say so, with the reason; it is then listed as a note. `CODE@COMPONENT:LOCATION` narrows it to a place, "
            "`#sha256:DIGITS` to one candidate:",
        ),
        example=(
            f'pytest ... --genmodel-allow="{rule.code}: why it is so on purpose"\n\n'
            f"# pytest.ini\ngenmodel_allow =\n    {rule.code}: why it is so on purpose\n\n"
            f'# a marker\n@pytest.mark.invariant(..., allow={{"{rule.code}": "why it is so on purpose"}})'
        ),
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def thread_name(address: str) -> str:
    """A short name for a public thread: `zai-org/CogVideo issue 374`; any other address is its own name."""
    match = _THREAD.fullmatch(address)
    if match is None:
        return address
    number = match[3][:10] if match[2] == "commit" else match[3]
    return f"{match[1]} {_KINDS[match[2]]} {number}"


def markdown(rule: Rule, parts: Sequence[Section]) -> str:
    """The page as a Markdown document."""
    lines = [f"# {rule.code}: {rule.summary}", "", f"Severity: **{rule.severity.value}**", ""]
    for part in parts:
        lines += [f"## {part.title}", ""]
        for paragraph in part.paragraphs:
            lines += [_escaped(paragraph), ""]
        if part.points:
            lines += [*(f"- {_linked(point)}" for point in part.points), ""]
        if part.example:
            lines += ["```text", part.example, "```", ""]
    return "\n".join(lines[:-1]) + "\n"


def _linked(point: str) -> str:
    return f"[{thread_name(point)}]({point})" if point.startswith("https://") else _escaped(point)


def _escaped(text: str) -> str:
    """Take from `<` and `*` outside of code what Markdown would make of them."""
    pieces = text.split("`")
    return "`".join(
        piece.replace("<", "&lt;").replace("*", "\\*") if number % 2 == 0 else piece
        for number, piece in enumerate(pieces)
    )
