"""`genmodel diff REF CAND`: how a candidate differs from a reference, per component and tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.pairing import ADAPTER
from pytest_genmodel.cli.judgement import allowances, exit_status, last_line, with_allowed
from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.diagnosis.change import Change
from pytest_genmodel.diagnosis.comparison import Compared, compare_checkpoints
from pytest_genmodel.diagnosis.difference.drift import figure
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.invariants.contract import contract_for
from pytest_genmodel.pipelines.families import UnknownFamilyError, family_of
from pytest_genmodel.pipelines.overlay import overlay
from pytest_genmodel.pipelines.resolve import resolve
from pytest_genmodel.reports.table import table
from pytest_genmodel.reports.text import fold, number_text, printable
from pytest_genmodel.work_folder import WorkFolder

if TYPE_CHECKING:
    from pytest_genmodel.checkpoints.diff import WeightDifference
    from pytest_genmodel.tensors import Comparison

MOST_LIKENESSES = 3
"""Changed tensors of a component of which is said what the difference looks like: each is read once more."""
LOOKED_AT = "the files alone. What the loaded models do: pytest --genmodel-ref=REF --genmodel-ckpt=CAND"


def diff(
    reference: str,
    candidate: str,
    terminal: Terminal,
    *,
    expect: str,
    strict: bool = False,
    most: int = 10,
    allow: Sequence[str] = (),
) -> int:
    """Write how `candidate` differs from `reference`; gives the exit status.

    Args:
        reference, candidate: specs; either may be partial.
        terminal: where to write.
        expect: how the candidate may differ.
        strict: warnings count as findings.
        most: tensors to list for each component.
        allow: what may be found, each with the reason, as --genmodel-allow takes it.

    Raises:
        BadInputError: a spec names nothing that is read here, the two have nothing in common, or an allowance
            is not spelled as one.
        DamagedFileError: a file that must be read to recognise one of them is damaged.
    """
    allowed = allowances(allow)
    work = WorkFolder()
    try:
        theirs, ours = resolve(reference, work.path), resolve(candidate, work.path)
        done = tuple(compare_checkpoints(ours, theirs, _contract(expect, theirs, ours), terminal.progress))
        _check_compared(done, ours, theirs)
        found = chain.from_iterable(one.findings for one in done)
        findings = with_allowed(found, allowed, lambda: _whole(ours, theirs, work.path), terminal.progress)
        return _write(done, findings, ours, theirs, terminal, strict, most)
    finally:
        work.close()


def _whole(ours: Checkpoint, theirs: Checkpoint, workdir: Path) -> Checkpoint:
    """The candidate as pytest judges it: a partial one is laid over a whole reference."""
    return overlay(ours, theirs, workdir) if ours.is_partial and not theirs.is_partial else ours


def _contract(expect: str, *checkpoints: Checkpoint) -> Callable[[str], Change]:
    denoisers = next(filter(None, map(_denoisers, checkpoints)), ("transformer",))
    contract = contract_for(expect, *denoisers, wears_adapter=checkpoints[-1].adapter is not None)

    def change_of(name: str) -> Change:
        if name == ADAPTER:
            return contract.adapter
        return contract.of(name or denoisers[0])  # what neither side names is what was trained

    return change_of


def _denoisers(checkpoint: Checkpoint) -> tuple[str, ...]:
    try:
        return family_of(checkpoint).denoisers(checkpoint.components)
    except UnknownFamilyError:
        return tuple(name for name in ("transformer", "unet") if name in checkpoint.components)[:1]


def _check_compared(done: Sequence[Compared], ours: Checkpoint, theirs: Checkpoint) -> None:
    """Refuse to call two checkpoints the same of which nothing was compared."""
    if any(one.difference is not None or one.findings for one in done):
        return
    lora = next((side for side in (ours, theirs) if side.adapter is not None and not side.components), None)
    hint = f"; {lora.spec} is a LoRA, which genmodel inspect looks at by itself" if lora else ""
    raise BadInputError(f"{ours.spec} and {theirs.spec} have nothing in common that could be compared{hint}")


def _write(
    done: Sequence[Compared],
    findings: Sequence[dict[str, Any]],
    ours: Checkpoint,
    theirs: Checkpoint,
    terminal: Terminal,
    strict: bool,
    most: int,
) -> int:
    terminal.say([f"reference  {printable(theirs.spec)}", f"candidate  {printable(ours.spec)}", ""])
    terminal.say(_summary(done, terminal.width))
    changes = {one.name: _changes(one.difference) for one in done if one.difference is not None}
    for one in done:
        if one.difference is not None and one.difference.changed and most:
            terminal.say(_changed(one.name, changes[one.name], one.difference.compared, most, terminal.width))
    terminal.findings(findings)
    status = exit_status(findings, strict)
    terminal.say(["", last_line(findings, "no difference")])
    terminal.say(_left_out(done, terminal.width))
    terminal.say(fold(LOOKED_AT, "looked at: ", terminal.width))
    terminal.document(
        "diff",
        status,
        reference=_who(theirs),
        candidate=_who(ours),
        components=[_as_json(one, changes.get(one.name, [])) for one in done],
        findings=findings,
    )
    return status


def _left_out(done: Sequence[Compared], width: int) -> Iterator[str]:
    """What was not compared, one entry for each reason."""
    reasons: dict[str, list[str]] = {}
    for one in done:
        if one.left_out is not None:
            reasons.setdefault(one.left_out, []).append(printable(one.name or "weights"))
    for reason, names in reasons.items():
        yield fold(f"{', '.join(names)}: {printable(reason)}", "not compared: ", width)


def _summary(done: Sequence[Compared], width: int) -> list[str]:
    rows = []
    for one in done:
        if one.is_of_one_side:
            continue
        if one.difference is not None:
            rows.append((one.name or "(unnamed)", *map(number_text, _counts(one.difference).values())))
        elif one.left_out is None and not one.findings:
            rows.append((one.name, "", "yes", *[""] * 4))
        else:
            rows.append((one.name or "(unnamed)", "", "see below", *[""] * 4))
    head = ("component", "tensors", "identical", "rounded", "changed", "missing", "extra")
    return table(head, rows, width)


def _counts(difference: WeightDifference) -> dict[str, int]:
    changed, rounded = len(difference.changed), len(difference.rounded)
    return {
        "compared": difference.compared,
        "identical": difference.compared - changed - rounded,
        "rounded": rounded,
        "changed": changed,
        "missing": len(difference.missing),
        "extra": len(difference.extra),
    }


def _changes(difference: WeightDifference) -> list[dict[str, Any]]:
    """The changed tensors with their figures, the one that moved most first."""
    found = []
    for number, name in enumerate(difference.worst_first()):
        comparison = difference.changed[name]
        likeness = difference.detail(name).likeness if number < MOST_LIKENESSES else None
        found.append(
            {
                "tensor": name,
                "relative_difference": figure(comparison.relative_difference, comparison),
                "relative_norm_change": figure(comparison.relative_norm_change, comparison),
                "max_abs": figure(comparison.max_abs, comparison),
                "shapes": [list(shape) for shape in comparison.shapes],
                "note": _odd(comparison),
                "looks_like": likeness.text if likeness else None,
            }
        )
    return found


def _odd(comparison: Comparison) -> str | None:
    """Why a figure is missing."""
    ours, theirs = comparison.shapes
    if ours != theirs:
        return f"shape {list(ours)}, the reference's {list(theirs)}"
    for who, count in zip(("", "the reference's "), comparison.nonfinite, strict=True):
        if count.nan or count.inf:
            return f"{count.nan + count.inf} of {who}{comparison.numel} values are NaN or Inf"
    if comparison.relative_difference == float("inf"):
        return "the reference is all zero"
    return None


def _changed(
    name: str, changes: Sequence[dict[str, Any]], compared: int, most: int, width: int
) -> Iterator[str]:
    shown = changes[:most]
    rows = [
        (change["tensor"], *map(_figure, (change["relative_difference"], change["relative_norm_change"])),
         _figure(change["max_abs"]))
        for change in shown
    ]  # fmt: skip
    head, *lines = table(("tensor", "relative", "norm", "max |a-b|"), rows, width, indent="  ")
    yield ""
    count = f"{len(changes)} of {compared} tensors changed"
    yield fold(f"{count}, the one that moved most first", f"{printable(name or 'weights')}: ", width)
    yield head
    for change, line in zip(shown, lines, strict=True):
        yield line
        for what, text in (("", change["note"]), ("looks like: ", change["looks_like"])):
            if text:
                yield fold(printable(text), f"      {what}", width)
    if len(changes) > most:
        yield f"  and {len(changes) - most} more (--most=N, --json)"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _who(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "spec": checkpoint.spec,
        "kind": checkpoint.kind.value,
        "written_by": checkpoint.written_by or None,
        "pipeline_class": checkpoint.pipeline_class,
    }


def _as_json(one: Compared, changes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    difference = one.difference
    return {
        "name": one.name or None,
        "not_compared": one.left_out,
        "counts": _counts(difference) if difference is not None else None,
        "changed": list(changes),
        "rounded": dict(difference.rounded) if difference is not None else {},
        "missing": list(difference.missing) if difference is not None else [],
        "extra": list(difference.extra) if difference is not None else [],
    }
