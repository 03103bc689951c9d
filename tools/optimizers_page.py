"""Write docs/optimizers.md from the table of optimizers: `python -m tools.optimizers_page`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from tools.optimizer_table import NOT_IN_DEV, PRACTICES, ROWS, Effect, Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "optimizers.md"
HEAD = """# Optimizers at learning rate zero

At rate 0 a training run must leave every weight alone; [zero_lr_identity](training.md) holds a trainer to that. Most
optimizers do; these tables say which do not, and why. Each row was measured: three steps with the gradients of three
real training steps of the tiny CogVideoX transformer (64 tensors, and a LoRA's factor of zeros), compared bit by bit.

- **identity**: every bit is what it was.
- **moves**: weights change. The finding GM702 names the habit.
- **NaN**: weights become NaN or Inf.
- **refuses**: the optimizer raises when it is made with this rate. Give `1e-46` instead: no zero to whoever asks, and
  zero in float32, whose smallest number is 1.4e-45.
- **fails**: a step raises.

Whatever the optimizer, a rate of 0 keeps weights only while gradients are finite: 0 x Inf and 0 x NaN are NaN.

This page is written from `tools/optimizer_table.py` by `python -m tools.optimizers_page`;
`tests/training/test_optimizers.py` and `test_optimizer_loops.py` measure every row.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for package, rows in groupby(ROWS, key=lambda row: row.package):
        parts += [f"\n## {package}\n", _note(package), _table(list(rows))]
    parts += ["\n## What loops do around the optimizer, at rate 0\n", _practices()]
    return "".join(parts)


def _note(package: str) -> str:
    version = NOT_IN_DEV.get(package)
    if version is None:
        return ""
    return (
        f"\nMeasured with {package} {version}. It is not installed for the project's own tests, which measure these "
        "rows only where it is there.\n"
    )


def _table(rows: list[Row]) -> str:
    lines = ["", "| optimizer | weights | rate 0 | rate 1e-46 | why |", "|---|---|---|---|---|"]
    for row in rows:
        weights = row.dtype if row.takes == "all" else f"{row.dtype}, {_TAKES[row.takes]}"
        smallest = _shown(row.at_smallest) if row.at_smallest is not None else "takes none"
        zero = _shown(row.at_zero)
        if row.at_smallest is None:
            zero = f"{zero} (takes none)"
        lines.append(f"| `{row.call}` | {weights} | {zero} | {smallest} | {row.why} |")
    return "\n".join(lines) + "\n"


_TAKES = {"matrices": "matrices only", "sparse": "sparse gradients only"}


def _practices() -> str:
    lines = ["", "| what | effect | why |", "|---|---|---|"]
    lines += [f"| {practice.what} | {_shown(practice.effect)} | {practice.why} |" for practice in PRACTICES]
    return "\n".join(lines) + "\n"


def _shown(effect: Effect) -> str:
    return effect.value if effect is Effect.IDENTITY else f"**{effect.value}**"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
