"""Write docs/faults.md from the registry of faults: `python -m tools.faults_page`."""

from __future__ import annotations

import tempfile
from collections import Counter
from itertools import groupby
from pathlib import Path

from pytest_genmodel.audit.subject import fine_tuned, write_adapter
from pytest_genmodel.faults.copy import clone
from pytest_genmodel.faults.legitimate import all_differences
from pytest_genmodel.faults.misses import MISSES
from pytest_genmodel.faults.registry import LAYERS, Fault, Place, all_faults
from pytest_genmodel.pipelines import tiny
from pytest_genmodel.pipelines.library import quiet

PAGE = Path(__file__).resolve().parent.parent / "docs" / "faults.md"
HEAD = """# Faults

Real breakages from public threads, each as a function that makes it on purpose (`pytest_genmodel/faults/`). A test
injects every one of them and demands that the claim named here fails with this rule, at this place; what is not
caught is listed as a miss with its reason, and the test fails when that list is not true. `--genmodel-audit` injects
them into [copies of your own model](audit.md). This page is written by `python -m tools.faults_page`.

Faults of a training loop are edits of a training script; they are in `tests/training/test_real_trainer.py`.
"""
_KINDS = {"checkpoint": "folder", "adapter": "LoRA", "environment": "library"}


def page() -> str:
    """The whole page as Markdown."""
    faults = list(all_faults().values())
    places = _places(faults)
    caught = [fault for fault in faults if fault.name not in MISSES]
    entries = {entry for fault in faults for entry in fault.entries}
    cost = Counter(fault.level for fault in caught)
    parts = [
        HEAD,
        f"\n{len(faults)} faults, which stand for {len(entries)} threads: {len(caught)} are caught "
        f"({cost['static']} from the files alone, {cost['quick'] + cost['full']} by running the model), "
        f"{len(faults) - len(caught)} missed. Applied to: a folder or a LoRA at rest, or a library that is wrong "
        "for candidate and reference alike.\n",
        "\n## Caught\n",
    ]
    ordered = sorted(caught, key=lambda fault: (LAYERS.index(fault.layer), fault.name))
    for layer, group in groupby(ordered, key=lambda fault: fault.layer):
        parts.append(
            f"\n### {layer}\n\n| fault | in | caught by | rule | where | thread |\n|---|---|---|---|---|---|\n"
        )
        parts += [_row(fault, places[fault.name]) for fault in group]
    parts.append("\n## Missed\n\n| fault | layer | in | why | thread |\n|---|---|---|---|---|\n")
    for fault in faults:
        if fault.name in MISSES:
            cells = (_said(fault), fault.layer, _KINDS[fault.kind], MISSES[fault.name], _thread(fault))
            parts.append(f"| {' | '.join(cells)} |\n")
    parts.append(
        "\n## Not faults\n\nThese differences are the same model: no claim says more than a note about them.\n\n"
        "| difference | how it is looked at |\n|---|---|\n"
    )
    for difference in all_differences().values():
        parts.append(f"| **{difference.name}**: {difference.summary} | {difference.treated} |\n")
    return "".join(parts)


def _row(fault: Fault, place: Place) -> str:
    code = f"[{fault.code}](rules/{fault.code}.md)" if fault.code else ""
    weight = "" if fault.severity == "error" else f" ({fault.severity})"
    where = ": ".join(part for part in (place.component, place.location and f"`{place.location}`") if part)
    cells = (
        _said(fault),
        _KINDS[fault.kind],
        f"`{fault.invariant}`",
        f"{code}{weight}",
        where,
        _thread(fault),
    )
    return f"| {' | '.join(cells)} |\n"


def _said(fault: Fault) -> str:
    return f"**{fault.name}**: {fault.summary}"


def _thread(fault: Fault) -> str:
    return f"[thread]({fault.seen_in})" if fault.seen_in else ""


def _places(faults: list[Fault]) -> dict[str, Place]:
    """Where each fault sits in its tiny pipeline."""
    with tempfile.TemporaryDirectory() as work, quiet():
        root = Path(work)
        found = {}
        for fault in faults:
            if fault.kind == "environment":
                found[fault.name] = fault.place or Place(None)
                continue
            if fault.name in MISSES:
                continue
            reference = tiny.materialise(fault.model, root)
            subject = reference
            if fault.kind == "adapter":
                subject = root / f"{fault.model}-adapter"
                if not subject.exists():
                    write_adapter(reference, subject)
            elif fault.expect == "finetuned":
                subject = root / f"{fault.model}-tuned"
                if not subject.exists():
                    fine_tuned(reference, subject)
            found[fault.name] = fault.inject(clone(subject, root / "faulty" / fault.name), reference).place
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
