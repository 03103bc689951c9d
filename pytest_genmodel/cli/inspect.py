"""`genmodel inspect CKPT`: what a checkpoint is, and what is wrong with it by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from pytest_genmodel.checkpoints.checkpoint import Checkpoint
from pytest_genmodel.checkpoints.damage import DamagedFileError, UnreadableCheckpointError
from pytest_genmodel.checkpoints.inventory import FINAL, Inventory, SavedSet, inventory
from pytest_genmodel.checkpoints.opening import open_checkpoint
from pytest_genmodel.checkpoints.progress import Progress
from pytest_genmodel.cli.judgement import allowances, exit_status, last_line, with_allowed
from pytest_genmodel.cli.terminal import Terminal
from pytest_genmodel.diagnosis.allowance import Allowance
from pytest_genmodel.diagnosis.at_rest import ema_findings, findings_at_rest
from pytest_genmodel.diagnosis.damage import damage_finding
from pytest_genmodel.diagnosis.finding import Finding
from pytest_genmodel.pipelines.resolve import locate
from pytest_genmodel.reports.description import (
    AdapterFacts,
    ComponentFacts,
    Description,
    SetFacts,
    WeightFacts,
    describe,
)
from pytest_genmodel.reports.table import table
from pytest_genmodel.reports.text import fold, number_text, printable, size_text
from pytest_genmodel.work_folder import WorkFolder

LOOKED_AT = (
    "the files alone. Whether a model finds in them what it needs: pytest --genmodel-ckpt=SPEC "
    "--genmodel-level=static; how they differ from another checkpoint: genmodel diff"
)


def inspect(
    spec: str,
    terminal: Terminal,
    *,
    with_digests: bool = False,
    strict: bool = False,
    allow: Sequence[str] = (),
) -> int:
    """Write what `spec` is and what is wrong with it; gives the exit status.

    `allow` says what may be found, each with the reason, as --genmodel-allow takes it.

    Raises:
        BadInputError: nothing is there that is read here, or several sets of weights: those are listed first; or
            an allowance is not spelled as one.
        DamagedFileError: a file that must be read to recognise it is damaged.
    """
    allowed = allowances(allow)
    work = WorkFolder()
    try:
        root, which = locate(spec, work.path)
        sets = inventory(root)
        meant = sets.final if which is None else sets.find(which, spec.removesuffix(f"@{which}"))
        try:
            checkpoint = open_checkpoint(root, spec) if which is None or meant is None else meant.open(spec)
        except UnreadableCheckpointError as error:
            if not sets.sets:
                raise
            _write_sets(spec, sets, terminal, str(error))
            raise
        return _inspect(checkpoint, sets, meant, terminal, with_digests, strict, allowed)
    finally:
        work.close()


def _inspect(
    checkpoint: Checkpoint,
    sets: Inventory,
    meant: SavedSet | None,
    terminal: Terminal,
    with_digests: bool,
    strict: bool,
    allowed: Sequence[Allowance],
) -> int:
    facts = describe(checkpoint, with_digests=with_digests, progress=terminal.progress)
    shown = _facts_of(sets, meant) if len(sets.sets) > 1 else ()
    terminal.say(_head(facts, terminal.width))
    terminal.say(_components(facts, terminal.width))
    if facts.adapter is not None:
        terminal.say(_adapter(facts.adapter, terminal.width))
    if shown:
        terminal.say(["", "weight sets in this output (* is the one that is meant)"])
        terminal.say(_set_table(shown, terminal.width))
    found = chain(
        findings_at_rest(checkpoint, terminal.progress), _of_average(sets, meant, terminal.progress)
    )
    findings = with_allowed(found, allowed, lambda: checkpoint, terminal.progress)
    terminal.findings(findings)
    status = exit_status(findings, strict)
    terminal.say(["", last_line(findings, "no finding at rest")])
    terminal.say(fold(LOOKED_AT, "looked at: ", terminal.width))
    terminal.document(
        "inspect",
        status,
        checkpoint=facts.to_json(),
        weight_sets=[asdict(one) for one in shown],
        findings=findings,
    )
    return status


def _of_average(sets: Inventory, meant: SavedSet | None, progress: Progress) -> Iterator[Finding]:
    """Hold raw weights and their average against each other, where the set that is meant is one of them."""
    for raw, average in sets.pairs:
        if meant not in (raw, average) or raw.label == FINAL:
            continue  # what lies beside a final result was looked at with it
        ours, theirs = raw.open(raw.label).components, average.open(average.label).components
        for name in [name for name in ours if name in theirs]:
            try:
                yield from ema_findings(ours[name], theirs[name], progress=progress)
            except DamagedFileError as error:
                yield damage_finding(error, name or None)


def _write_sets(spec: str, sets: Inventory, terminal: Terminal, problem: str) -> None:
    """List the sets among which the user must choose; nothing is inspected."""
    shown = _facts_of(sets, None)
    terminal.say(f"{printable(spec)}: a trainer's output with {len(shown)} sets of weights")
    terminal.say(["", *_set_table(shown, terminal.width), ""])
    terminal.document(
        "inspect",
        2,
        checkpoint=None,
        weight_sets=[asdict(one) for one in shown],
        findings=[],
        problem=problem,
    )


def _facts_of(sets: Inventory, meant: SavedSet | None) -> tuple[SetFacts, ...]:
    return tuple(
        SetFacts(one.label, one.what, one.step, one.is_ema, _place(one.path, sets.root), one == meant)
        for one in sets.sets
    )


def _place(path: Path, root: Path) -> str:
    """Where a set lies, without a machine's paths."""
    return path.relative_to(root).as_posix()


def _set_table(sets: Sequence[SetFacts], width: int) -> list[str]:
    rows = [
        (
            "*" if one.is_meant else "",
            f"@{one.label}",
            "" if one.step is None else str(one.step),
            "EMA" if one.is_ema else "",
            one.what,
        )
        for one in sets
    ]
    return table(("", "name", "step", "average", "what"), rows, width, gives_way=4, left=(0, 1, 3, 4))


def _head(facts: Description, width: int) -> Iterator[str]:
    what = facts.pipeline_class or facts.kind
    family = f", family {facts.family}" if facts.family else ", of no family that is known here"
    yield fold(f"{printable(facts.spec)}: {what}{family if facts.pipeline_class else ''}", "", width)
    if facts.written_by:
        yield fold(facts.written_by, "written by: ", width)
    for name, where in facts.foreign.items():
        yield fold(f"{printable(name)} is a {printable(where)}, which is never imported", "foreign: ", width)


def _components(facts: Description, width: int) -> Iterator[str]:
    if not facts.components:
        return
    with_weights = [one.weights for one in facts.components if one.weights is not None]
    rows = [_component_row(one) for one in facts.components]
    if len(with_weights) > 1:
        rows.append(("total", "", *_total(with_weights)))
    yield ""
    head = ("component", "class", "tensors", "parameters", "size", "dtype")
    yield from table(head, rows, width, gives_way=1, left=(0, 1, 5))
    for one in facts.components:
        name = printable(one.name or "weights")
        if one.weights is not None and one.weights.files:
            yield fold(_files(one.weights), f"  {name}: ", width)
        if one.weights is not None and one.weights.unexplained:
            yield f"  {name}: {one.weights.unexplained} stored names that no key map explains"
        if one.problem is not None:
            yield fold(printable(one.problem), f"  {name}: cannot be read: ", width)
        if one.digest is not None:
            yield f"  {name}: sha256 {one.digest}"


def _component_row(one: ComponentFacts) -> tuple[str, ...]:
    name, cls = one.name or "(unnamed)", one.class_name or ""
    if one.weights is None:
        return (name, cls, *["?" if one.problem else ""] * 4)
    return (name, cls, *_figures(one.weights))


def _figures(weights: WeightFacts) -> tuple[str, str, str, str]:
    return (
        number_text(weights.tensors),
        number_text(weights.parameters),
        size_text(weights.bytes),
        ", ".join(weights.dtypes),
    )


def _total(weights: Sequence[WeightFacts]) -> tuple[str, str, str, str]:
    return (
        number_text(sum(one.tensors for one in weights)),
        number_text(sum(one.parameters for one in weights)),
        size_text(sum(one.bytes for one in weights)),
        "",
    )


def _files(weights: WeightFacts) -> str:
    first, *others = (printable(name) for name in weights.files)
    mixed = ""
    if len(weights.dtypes) > 1:
        mixed = f" ({', '.join(f'{number_text(n)} {dtype}' for dtype, n in weights.dtypes.items())})"
    return (f"{first} and {len(others)} more files" if others else first) + mixed


def _adapter(adapter: AdapterFacts, width: int) -> Iterator[str]:
    yield ""
    yield fold(printable(adapter.file), "adapter: LoRA, ", width)
    if adapter.weights is None:
        yield fold(printable(adapter.problem or ""), "  cannot be read: ", width)
        return
    tensors, parameters, size, dtypes = _figures(adapter.weights)
    yield f"  {tensors} tensors, {parameters} parameters, {size}, {dtypes}"
    yield f"  rank:    {', '.join(map(str, adapter.ranks)) or 'unknown'}"
    yield f"  scale:   {_scale(adapter)}"
    targets = ", ".join(map(printable, adapter.targets))
    yield fold(
        f"{adapter.modules} layer{'s' if adapter.modules != 1 else ''} ({targets})",
        "  targets: ",
        width,
    )
    if adapter.digest is not None:
        yield f"  sha256 {adapter.digest}"


def _scale(adapter: AdapterFacts) -> str:
    if not adapter.scales:
        return "not stored: diffusers takes alpha = rank, so 1"
    known = f"alpha / rank = {', '.join(f'{scale:g}' for scale in adapter.scales)}"
    some = f"; not stored for {adapter.without_scale} layers" if adapter.without_scale else ""
    return f"{known} ({', '.join(adapter.scale_from)}{some})"
