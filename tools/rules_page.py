"""Write docs/rules.md from the registry of rules: `python -m tools.rules_page`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from pytest_genmodel.diagnosis.rules import RULES, Rule

PAGE = Path(__file__).resolve().parent.parent / "docs" / "rules.md"
BANDS = {
    "0": "General",
    "1": "Files and safety",
    "2": "Names, shapes, dtypes",
    "3": "Values",
    "4": "Configuration and schedule",
    "5": "Determinism and samples",
    "6": "Round trip",
    "7": "Training",
    "8": "Adapters",
    "9": "Conditioning and video",
}
HEAD = """# Rules

Each finding carries a stable code. The first digit is its band. An `error` fails the verdict, a `warning` fails it
under `--genmodel-strict`, a `note` never does. This page is written from the registry
(`pytest_genmodel/diagnosis/rules/`) by `python -m tools.rules_page`.
"""


def page() -> str:
    """The whole page as Markdown."""
    built_in = sorted(
        (rule for rule in RULES.values() if rule.code.startswith("GM")), key=lambda rule: rule.code
    )
    parts = [HEAD]
    for band, rules in groupby(built_in, key=lambda rule: rule.code[2]):
        parts.append(f"\n## {band}xx: {BANDS[band]}\n")
        parts += [_entry(rule) for rule in rules]
    return "".join(parts)


def _entry(rule: Rule) -> str:
    return (
        f'\n<a id="{rule.code.lower()}"></a>\n\n### {rule.code}: {rule.summary} ({rule.severity.value})\n\n'
        f"{rule.meaning}\n\n**What to do.** {rule.action}\n{_seen_in(rule)}"
    )


def _seen_in(rule: Rule) -> str:
    if not rule.seen_in:
        return ""
    return f"\n**Seen in.** {', '.join(f'<{address}>' for address in rule.seen_in)}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
