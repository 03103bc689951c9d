"""A baseline accepted from a saved run: what of it can be, what stands against it, and what the file then holds.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_genmodel.baselines.goldens import test_of
from pytest_genmodel.baselines.record import put_reference
from pytest_genmodel.baselines.store import Entry, Store
from pytest_genmodel.errors import BadInputError
from pytest_genmodel.runs.saved import BASELINE, SavedRun

REFERENCE = "reference"
"""What the candidate's part of a baseline is called: from then on it stands for the reference."""
ACCEPTED = "accepted/last"
"""The entry that says who accepted what, and when."""
_CONTROLS = ("GM501", "GM502", "GM504", "GM506", "GM507", "GM508", "GM509")
"""A sample that two runs of one model do not share is nothing to hold others to."""


def offered(run: SavedRun) -> dict[str, Entry]:
    """The entries that the run kept of its candidate and its golden values, by name.

    Raises:
        BadInputError: it kept none, or its file is damaged.
    """
    path = run.path / BASELINE
    if not path.exists():
        why = "; ".join(run.left_out) or "it kept nothing of the candidate"
        raise BadInputError(f"{run.path}: no baseline can be made of this run: {why}")
    store = Store.open(path, must_exist=True)
    return {name: entry for name in store.names() if (entry := store.get(name)) is not None}


def check(run: SavedRun) -> None:
    """Refuse a run that must not become what others are held to.

    Raises:
        BadInputError: it did not come to its end, or its control failed: the candidate is not itself from run to run,
            or could not be judged.
    """
    report = run.report
    if not report.get("complete"):
        raise BadInputError(f"{run.path}: the run did not come to its end, and nothing is accepted from it")
    for verdict in report["verdicts"]:
        for finding in verdict["findings"]:
            if finding["code"] in _CONTROLS and finding["severity"] != "note":
                raise BadInputError(
                    f"{run.path}: {verdict['id']} found {finding['code']} ({finding['title']}): what two runs of one "
                    "model do not share is no baseline"
                )
        if verdict["outcome"] == "inconclusive":
            raise BadInputError(
                f"{run.path}: {verdict['id']} could not be judged ({verdict['reason']}), and nothing is accepted "
                "from such a run"
            )


def chosen(entries: Mapping[str, Entry], ids: Sequence[str]) -> dict[str, Entry]:
    """The entries that `ids` name; all of them where there is none.

    An id is `reference`, a test's id, or a golden value's name as it is shown.

    Raises:
        BadInputError: an id names nothing that the run kept.
    """
    if not ids:
        return dict(entries)
    found: dict[str, Entry] = {}
    for id_ in ids:
        named = {name: entry for name, entry in entries.items() if _is_named(name, id_)}
        if not named:
            shown = ", ".join(names(entries))
            raise BadInputError(f"the run kept nothing that is called {id_} (it kept: {shown or 'nothing'})")
        found |= named
    return found


def _is_named(name: str, id_: str) -> bool:
    kind, _, rest = name.partition("/")
    return id_ == kind == REFERENCE or (kind == "golden" and id_ in (rest, name, test_of(name)))


def names(entries: Mapping[str, Entry]) -> Iterator[str]:
    """What can be accepted, as an id names it."""
    if any(name.startswith(f"{REFERENCE}/") for name in entries):
        yield REFERENCE
    yield from (name.removeprefix("golden/") for name in entries if name.startswith("golden/"))


def renewed(store: Store, entries: Mapping[str, Entry], by: Mapping[str, Any]) -> Store:
    """The store as it is once `entries` are accepted; `by` says who accepted them, and is kept."""
    after = store.copy()
    reference = {name: entry for name, entry in entries.items() if name.startswith(f"{REFERENCE}/")}
    if reference:
        put_reference(after, reference)
    for name, entry in entries.items():
        if name not in reference:
            after.put(name, entry)
    if store.diff(after):
        after.put(ACCEPTED, Entry(dict(by)))
    return after


def baseline_of(run: SavedRun) -> Path | None:
    """The baseline that the run was judged with."""
    said = run.policy.get("baseline")
    return Path(str(said)) if said else None
