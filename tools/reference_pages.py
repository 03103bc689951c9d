"""Write docs/reference/{options,invariants,cli}.md from the tables of the code: `python -m tools.reference_pages`."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path

from pytest_genmodel.cli import main as command
from pytest_genmodel.invariants.registry import Invariant, all_invariants
from pytest_genmodel.options import OPTIONS, Option
from pytest_genmodel.settings import Settings
from pytest_genmodel.suite import SUITE

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
WRITTEN = "This page is written from `{}` by `python -m tools.reference_pages`."

_FREE = {"SPEC": "a [SPEC](../checkpoints.md)", "FILE": "a path"}
"""What an option takes that refuses nothing but emptiness, by its metavar."""


def options() -> str:
    """The page of the plugin's options."""
    rows = "".join(_option(option) for option in OPTIONS)
    return (
        "# Options\n\nOf `pytest`, each with its twin in the ini file. The command line goes before the ini file. A "
        "path in the ini file is relative to it, wherever pytest was started. A wrong value ends the run before "
        "anything is collected, with one line that says what is accepted.\n\n"
        "| option, in the ini file | what it does | accepts | default |\n|---|---|---|---|\n"
        f"{rows}\n"
        "In `pyproject.toml`, a project's policy:\n\n"
        '```toml\n[tool.pytest.ini_options]\ngenmodel_ref = "THUDM/CogVideoX-5b-I2V"\ngenmodel_expect = "finetuned"\n'
        "genmodel_strict = true\n```\n\n"
        f"{WRITTEN.format('pytest_genmodel/options.py')}\n"
    )


def _option(option: Option) -> str:
    is_flag = option.action in ("store_true", "store_false")
    metavar = "" if is_flag else f" {option.metavar}"
    cells = (
        f'<a id="{option.flag.strip("-")}"></a>`{option.flag}{metavar}`<br>`{option.ini}`',
        _cell(option.help),
        "no value (ini: `true`)" if is_flag else _accepted(option),
        "off" if is_flag else _default(option),
    )
    return f"| {' | '.join(cells)} |\n"


def _accepted(option: Option) -> str:
    """What the option itself says when it is given nothing; without what belongs to that nothing."""
    try:
        option.parse("")
    except ValueError as error:
        said = str(error).partition(" (")[0]
        return _FREE.get(option.metavar, "any text") if said == "a value" else _cell(said)
    return "any text"


def _default(option: Option) -> str:
    value = getattr(Settings(), option.field)
    return "" if value in (None, ()) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def invariants() -> str:
    """The page of every invariant with the parameters of its marker."""
    known = all_invariants()
    suite: dict[str, list[str]] = {}
    for group, claims in SUITE.items():
        for claim in claims:
            suite.setdefault(claim.invariant, []).append(f"genmodel::{group}::{claim.name}")
    built_in = sorted(
        name for name in known if known[name].function.__module__.startswith("pytest_genmodel.")
    )
    return (
        "# Invariants and their parameters\n\nEach is judged by its marker, `@pytest.mark.invariant(NAME, "
        "PARAMETER=...)`; those with an id in the built-in suite are judged without a test file too. What each "
        "needs, costs, and the tests that prove it: [Invariants](../invariants.md).\n"
        + "".join(_invariant(known[name], suite.get(name, [])) for name in built_in)
        + f"\n{WRITTEN.format('pytest_genmodel/invariants/')}\n"
    )


def _invariant(entry: Invariant, ids: list[str]) -> str:
    judged = ", ".join(f"`{name}`" for name in ids) or "where it is asked for"
    lines = [
        f"\n## {entry.name}\n\n{inspect.getdoc(entry.function)}\n",
        f"\n- **Level:** {entry.level.value}{'; needs a reference' if entry.needs_reference else ''}\n",
        f"- **In the built-in suite:** {judged}\n",
    ]
    signature = inspect.signature(entry.function)
    for name in entry.parameters:
        parameter = signature.parameters[name]
        default = (
            ", must be given"
            if parameter.default is parameter.empty
            else f", default `{parameter.default!r}`"
        )
        lines.append(f"- **Parameter** `{name}`: `{str(parameter.annotation).strip(chr(39))}`{default}\n")
    return "".join(lines)


def cli() -> str:
    """The page of the command's arguments."""
    parser = command._parser()
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {choice.dest: choice.help for choice in commands._choices_actions}
    parts = [
        "# Arguments of `genmodel`\n\nWhat each command shows, with examples: [The command](../command-line.md). "
        f"`genmodel --help` and `genmodel COMMAND --help` say the same.\n\n{_cell(parser.epilog or '')}\n"
    ]
    for name, sub in commands.choices.items():
        said = _sentence(helps.get(name) or "")
        parts.append(f"\n## genmodel {name}\n\n{said}\n\n| argument | what it does |\n|---|---|\n")
        parts += [f"| `{spelling}` | {text} |\n" for spelling, text in _arguments(sub)]
    parts.append(f"\n{WRITTEN.format('pytest_genmodel/cli/main.py')}\n")
    return "".join(parts)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
        value = " ".join(value) if isinstance(value, tuple) else value
        repeated = "..." if action.nargs in ("*", "+") else ""
        optional = action.nargs in ("?", "*") and not action.option_strings
        spelled = f"[{value}{repeated}]" if optional else f"{value}{repeated}"
        if action.option_strings:
            spelled = ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")
        text = (action.help or "") % {**vars(action), "prog": parser.prog}
        yield spelled, _cell(text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _cell(text: str) -> str:
    """Text that a table's cell may hold: one line, no bar, and names in braces or angles as they are."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


PAGES = {"options.md": options, "invariants.md": invariants, "cli.md": cli}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
