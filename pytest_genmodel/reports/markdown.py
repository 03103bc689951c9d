"""The job summary: a run in Markdown, the cause first, readable in a minute.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_genmodel.reports.counts import count
from pytest_genmodel.reports.entries import Entry, Listing, listing
from pytest_genmodel.reports.replay import replay_of
from pytest_genmodel.reports.text import printable, shortened

MOST_BYTES = 1_000_000
"""GitHub refuses a step's summary of more than 1 MiB, whole."""
LEAST_BYTES = 10_000
"""With less room in a step's summary nothing is added to it."""
MOST_ROWS = 100
MOST_CAUSES = 3
MOST_REASON = 100
MOST_TEXT = 400
_STATES = {
    "failed": "fails",
    "inconclusive": "could not be judged",
    "passed": "passes",
    "skipped": "nothing was judged",
}
_ORDER = ("failed", "inconclusive", "passed", "skipped")
_MARKUP = re.compile(
    r"[\\`*{}\[\]|~^<>&#@$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//|[\w+-]+:)|(?<=www)\.", re.IGNORECASE
)
"""What makes emphasis, code, links, tables, mathematics; also what GitHub makes mentions, links and pictures of."""
_IN_CODE = frozenset(" _.,:;/@=+{}()[]*#%!?'\"~^-")
_ESCAPES = {mark: f"&#{ord(mark)};" for mark in "<>&#@$:."}
_START = re.compile(r"^(\d*)([-+=.)])")
"""At the start of a line: lists, and the lines that make a heading of what stands above them."""


def markdown(document: Mapping[str, Any], root: Path | None = None, most_bytes: int = MOST_BYTES) -> str:
    """The report in GitHub's Markdown, which GitLab and others read too; less than `most_bytes` in UTF-8.

    Names and messages come from files that anyone may have written: nothing in them is markup, a link or a mention.
    Sections that do not fit into `most_bytes` are left out, the last ones first, and that is said. Otherwise it takes
    and raises what every view does (`views.View`).
    """
    found = listing(document, root)
    told_of = {verdict["candidate"] for verdict in document["verdicts"]}
    judged = [
        candidate
        for candidate in document["candidates"]
        if candidate["label"] in told_of or not document.get("audit")
    ]
    sections = [
        *(_head(candidate, found, document) for candidate in judged),
        _audit(document.get("audit")),
        *(_tables(candidate, found.of(str(candidate["label"])), document) for candidate in judged),
        _run(document),
    ]
    return _fitted(["\n".join(lines) + "\n" for lines in filter(None, map(list, sections))], most_bytes)


def append_summary(document: Mapping[str, Any], path: Path) -> None:
    """Add the summary to the file of a step, as far as there is room; raises OSError where that cannot be done."""
    taken = path.stat().st_size if path.exists() else 0
    room = MOST_BYTES - taken
    if room < LEAST_BYTES:
        return
    with path.open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(f"\n{markdown(document, most_bytes=room)}" if taken else markdown(document))


def text(value: object, most: int = MOST_TEXT) -> str:
    """What anyone may have written, as plain text in one line of Markdown, inside a table or outside."""
    flat = shortened(" ".join(printable(str(value)).split()), most)
    outside, *rest = flat.split("`")
    if len(rest) % 2:  # a backtick without its partner
        return _escaped(flat)
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return _escaped(outside) + "".join(
        (code(inside, most) if inside.strip() else _escaped(f"`{inside}`")) + _escaped(after, at_start=False)
        for inside, after in pairs
    )


def _escaped(flat: str, at_start: bool = True) -> str:
    escaped = _MARKUP.sub(lambda match: _ESCAPES.get(match[0]) or f"\\{match[0]}", flat)
    return _START.sub(r"\1\\\2", escaped) if at_start else escaped


def code(value: object, most: int = MOST_TEXT) -> str:
    """A name in the letters of code, whatever is in it."""
    flat = shortened(printable(str(value)).replace("\n", "\\n"), most)
    if flat == flat.strip() != "" and all(char.isalnum() or char in _IN_CODE for char in flat):
        return f"`{flat}`"
    return f"<code>{_entities(flat)}</code>"


def _entities(flat: str) -> str:
    return "".join(char if char.isalnum() or char == " " else f"&#{ord(char)};" for char in flat)


def _fitted(sections: Sequence[str], most: int) -> str:
    last = "\nMore does not fit here; it is in the report (`--genmodel-json`).\n"
    written: list[str] = []
    size = 0
    for section in sections:
        size += len(section.encode("utf-8")) + 1
        if size + len(last) > most:
            return "\n".join([*written, last])
        written.append(section)
    return "\n".join(written)


def _head(candidate: Mapping[str, Any], found: Listing, document: Mapping[str, Any]) -> Iterator[str]:
    """The verdict, and its causes in full; of a report that has none the worst finding."""
    verdicts = [one for one in document["verdicts"] if one["candidate"] == candidate["label"]]
    counts = count(verdicts)
    state = next((state for state in ("failed", "inconclusive", "passed") if counts[state]), "skipped")
    said = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)
    yield f"## {code(candidate['label'])} {_STATES[state]}"
    yield ""
    broken = "" if document["complete"] else " **The run was broken off: less was judged than was asked.**"
    yield f"{said or 'no verdict'}, in {sum(float(one['seconds']) for one in verdicts):.0f} s.{broken}"
    faults = [entry for entry in found.of(str(candidate["label"])) if entry.severity != "note"]
    leading = [entry for entry in faults if entry.cause is not None][:MOST_CAUSES] or faults[:1]
    for entry in leading:
        yield ""
        yield from _lead(entry, document)
    ruled_out = leading[0].cause["ruled_out"] if leading and leading[0].cause is not None else ()
    if ruled_out:  # alike for every cause of a candidate
        yield ""
        yield f"**Ruled out:** {'; '.join(text(one['text']) for one in ruled_out[:MOST_ROWS])}"
    for group in found.by_reason[:MOST_ROWS]:
        if group[0].candidate == candidate["label"]:
            names = dict.fromkeys(one.invariant for one in group)
            yield ""
            yield f"{', '.join(map(code, names))} could not be judged: {text(group[0].reason)}"


def _lead(entry: Entry, document: Mapping[str, Any]) -> Iterator[str]:
    finding = entry.finding
    yield f"### {text(entry.head)}"
    yield ""
    if entry.where:
        yield f"{_where(entry)}  "
    yield f"{text(finding['message'], 2000)}"
    for name in ("cause", "action"):
        if finding[name]:
            yield ""
            yield f"**{name.capitalize()}:** {text(finding[name], 2000)}"
    for name, figure in entry.figures:
        if figure:
            yield ""
            yield f"**{name.capitalize()}:** {text(figure)}"
    yield from _of_cause(entry)
    if again := replay_of(document, entry.id):
        yield ""
        yield from _fenced(again)


def _of_cause(entry: Entry) -> Iterator[str]:
    """How sure it is, and what it explains, where the report says so."""
    cause = entry.cause
    if cause is None:
        return
    yield ""
    yield f"**Confidence:** {text(cause['confidence'])}: {text(cause['conclusion'])}"
    if explained := cause["explains"]:
        yield ""
        yield "**Explains:**"
        yield ""
        for one in explained[:MOST_ROWS]:
            where = " ".join(code(part) for part in (one["component"], one["location"]) if part)
            yield f"- {code(one['code'])} {text(one['title'])}{f' in {where}' if where else ''}: {text(one['why'])}"


def _fenced(command: str) -> Iterator[str]:
    flat = printable(command).replace("\n", "\\n")
    ticks = max((len(run) for run in re.findall(r"`+", flat)), default=0)
    fence = "`" * max(3, ticks + 1)
    yield f"{fence}console"
    yield f"$ {flat}"
    yield fence


def _where(entry: Entry) -> str:
    component, location = entry.finding["component"], entry.finding["location"]
    return " ".join(code(part) for part in (component, location) if part)


def _tables(
    candidate: Mapping[str, Any], entries: Sequence[Entry], document: Mapping[str, Any]
) -> Iterator[str]:
    verdicts = [one for one in document["verdicts"] if one["candidate"] == candidate["label"]]
    several = len(document["candidates"]) > 1
    of = f" of {code(candidate['label'])}" if several else ""
    of_in_html = f" of <code>{_entities(printable(str(candidate['label'])))}</code>" if several else ""
    if entries:
        rows = (
            (
                f"{code(entry.finding['code'])} {text(entry.finding['title'])}",
                entry.severity,
                _where(entry),
                text(f"allowed: {entry.allowed}" if entry.allowed else entry.finding["message"]),
                " ".join(code(name) for name in entry.found_by),
            )
            for entry in entries
        )
        yield f"#### Findings{of}"
        yield ""
        yield from _table(("finding", "severity", "where", "what", "found by"), rows, len(entries))
        yield ""
    if verdicts:
        rows_ = (
            (
                code(one["id"]),
                str(one["outcome"]),
                f"{float(one['seconds']):.1f}",
                text(one["reason"] or "", MOST_REASON),
            )
            for one in sorted(verdicts, key=lambda one: _ORDER.index(one["outcome"]))
        )
        yield f"<details><summary>Verdicts{of_in_html}</summary>"
        yield ""
        yield from _table(("item", "outcome", "seconds", "reason"), rows_, len(verdicts))
        yield ""
        yield "</details>"


def _audit(audit: Mapping[str, Any] | None) -> Iterator[str]:
    """Which of the injected faults the gate would catch, and which it would not."""
    if audit is None:
        return
    caught = int(audit["summary"]["caught"]) + int(audit["summary"]["stopped"])
    yield f"## The gate would catch {caught} of {int(audit['judged'])} faults"
    open_ = [one for one in audit["faults"] if one["outcome"] in ("missed", "warned")]
    if open_:
        rows = (
            (code(one["fault"]), str(one["outcome"]), code(one["layer"]), text(one["summary"]))
            for one in open_
        )
        yield ""
        yield from _table(("fault", "outcome", "layer", "what"), rows, len(open_))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], number: int) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row, _ in zip(rows, range(MOST_ROWS), strict=False):
        yield f"| {' | '.join(cell or ' ' for cell in row)} |"
    if number > MOST_ROWS:
        yield ""
        yield f"and {number - MOST_ROWS} more (all of them: `--genmodel-json`)"


def _run(document: Mapping[str, Any]) -> Iterator[str]:
    """How it was run, on what."""
    environment, reference = document["environment"], document["reference"]
    facts = {
        **{f"candidate {one['label']}": _checkpoint(one) for one in document["candidates"]},
        "reference": _checkpoint(reference) if reference else None,
        "device, dtype": ", ".join(
            str(environment[key]) for key in ("device", "dtype") if environment.get(key)
        ),
        "level, seed": ", ".join(str(environment[key]) for key in ("level", "seed") if key in environment),
        "python": environment.get("python"),
        **{str(name): version for name, version in environment.get("packages", {}).items()},
        "pytest-genmodel": document["tool"]["version"],
    }
    yield "<details><summary>Run and environment</summary>"
    yield ""
    if line := document.get("command", {}).get("line"):
        yield from _fenced(str(line))
        yield ""
    known = {name: value for name, value in facts.items() if value}
    yield from _table(("", ""), ((text(name), code(value)) for name, value in known.items()), len(known))
    yield ""
    yield "</details>"


def _checkpoint(one: Mapping[str, Any]) -> str:
    return f"{one['spec']} sha256 {one['digest']}" if one.get("digest") else str(one["spec"])
