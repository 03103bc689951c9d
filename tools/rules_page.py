"""Write docs/rules/ from the registry of rules, a page each and an index: `python -m tools.rules_page`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from pytest_genmodel.cli.explain import page
from pytest_genmodel.diagnosis.rules import RULES, Rule
from pytest_genmodel.diagnosis.rules.page import markdown

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "rules"
BANDS = {
    "0": "General",
    "1": "Files and safety",
    "2": "Names, shapes, dtypes",
    "3": "Values",
    "4": "Configuration and schedule",
    "5": "Determinism and samples",
    "6": "Round trip and neutrality",
    "7": "Training",
    "8": "Adapters",
    "9": "Conditioning and video",
}
HEAD = """# Rules

Each finding carries a stable code; the first digit is its band. An `error` fails the verdict, a `warning` fails it
under `--genmodel-strict`, a `note` never does. Every code has a page: what it means, where it was met, an example,
how to fix it and how to [allow it on purpose](../howto/allow.md). `genmodel explain GM203` and
`pytest --genmodel-explain GM203` show the same pages in a terminal. All of them are written from the registry
(`pytest_genmodel/diagnosis/rules/`) by `python -m tools.rules_page`.
"""


def pages() -> dict[str, str]:
    """Every page by its file name: the index, and one for each rule of our own."""
    rules = [RULES[code] for code in sorted(RULES) if code.startswith("GM")]
    return {"index.md": _index(rules), **{f"{rule.code}.md": _page(rule) for rule in rules}}


def _index(rules: list[Rule]) -> str:
    parts = [HEAD]
    for band, group in groupby(rules, key=lambda rule: rule.code[2]):
        parts.append(f"\n## {band}xx: {BANDS[band]}\n\n| rule | severity | what |\n|---|---|---|\n")
        parts += [
            f"| [{rule.code}]({rule.code}.md) | {rule.severity.value} | {rule.summary} |\n" for rule in group
        ]
    return "".join(parts)


def _page(rule: Rule) -> str:
    links = "[All rules](index.md) · [Allowing a finding](../howto/allow.md) · [Faults](../faults.md)"
    return f"{markdown(rule, page(rule))}\n{links}\n"


def write() -> None:
    """Write every page, and remove those of codes that are no more."""
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
