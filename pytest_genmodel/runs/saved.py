"""The folder of a saved run: `run.json`, `observations.safetensors` and `baseline.safetensors`.

`run.json` holds the report and what judging it again needs; the observations are the values of the places at which
compared samples differ; the baseline holds what could be accepted of the candidates. Written whole or not at all.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from pytest_genmodel.errors import BadInputError, first_line
from pytest_genmodel.reports.report import SCHEMA
from pytest_genmodel.runs.damage import damage

if TYPE_CHECKING:
    import torch

FORMAT = 1
"""The format's version; a reader refuses any other."""
RUN, OBSERVATIONS, BASELINE = "run.json", "observations.safetensors", "baseline.safetensors"
MOST_JSON = 256_000_000
"""Bytes beyond which a `run.json` is none."""


@dataclass(frozen=True)
class SavedRun:
    """A run on disk.

    `report` is the report as its schema says; `comparisons` lists, for the verdict of an item about a candidate
    (`key`), what `observed.record` made, with the name of its values in place of them. `policy` says how was judged,
    `left_out` what was not kept, and why.
    """

    path: Path
    report: dict[str, Any]
    comparisons: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[str] = ()

    def values(self, place: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Both sides of a place, float32; None where they were not kept.

        Raises:
            BadInputError: the file of observations is damaged.
        """
        if place.get("values") is None:
            return None
        import torch

        from pytest_genmodel.checkpoints.damage import DamagedFileError
        from pytest_genmodel.checkpoints.safetensors_header import read_header

        file = self.path / OBSERVATIONS
        try:
            header = read_header(file)
            sides = []
            with file.open("rb") as stream:
                for side in ("ours", "theirs"):
                    tensor = header.tensors[f"{place['values']}/{side}"]
                    stream.seek(tensor.begin)
                    data = bytearray(stream.read(tensor.end - tensor.begin))
                    sides.append(torch.frombuffer(data, dtype=torch.float32).reshape(tensor.shape))
        except DamagedFileError as error:
            raise BadInputError(f"{file}: {first_line(error)}") from None
        except (KeyError, ValueError, RuntimeError) as error:
            raise BadInputError(f"{file}: does not hold what {RUN} says ({first_line(error)})") from None
        return sides[0], sides[1]


def key(verdict: Mapping[str, Any]) -> str:
    """What names a verdict in a run: item, candidate and invariant."""
    return f"{verdict['id']} {verdict['candidate']} {verdict['invariant']}"


def check_folder(path: Path) -> None:
    """Find out before the run that it can be saved there.

    Raises:
        BadInputError: something else is there, or it cannot be written.
    """
    if path.exists() and not (path.is_dir() and (is_run(path) or not any(path.iterdir()))):
        raise BadInputError("something else is there: give a folder that is new, empty, or a saved run's")
    parent = next((folder for folder in path.resolve().parents if folder.exists()), None)
    if parent is None or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise BadInputError("cannot be written there")


def is_run(path: Path) -> bool:
    """Whether a saved run lies in the folder."""
    try:
        return '"genmodel_run":' in (path / RUN).read_text(encoding="utf-8")[:200]
    except (OSError, UnicodeDecodeError):
        return False


def write(
    path: Path,
    report: dict[str, Any],
    comparisons: Mapping[str, Sequence[dict[str, Any]]],
    policy: Mapping[str, Any],
    left_out: Sequence[str] = (),
    baseline: bytes | None = None,
) -> None:
    """Write a run to the folder `path`, in place of the run that is there.

    Args:
        report: the report's document.
        comparisons: what `observed.record` made, with the values as bytes.
        policy: how was judged.
        left_out: what was not kept, in words.
        baseline: the content of a baseline's file.

    Raises:
        OSError: it cannot be written there.
    """
    tensors: dict[str, Any] = {}
    listed = {name: [_named(one, tensors) for one in several] for name, several in comparisons.items()}
    document = {
        "genmodel_run": FORMAT,
        "policy": dict(policy),
        "left_out": list(left_out),
        "comparisons": listed,
        "report": report,
    }
    files = {RUN: (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()}
    if tensors:
        from safetensors.numpy import save

        files[OBSERVATIONS] = save(tensors)
    if baseline is not None:
        files[BASELINE] = baseline
    _write_folder(path, files)


def _named(record: Mapping[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """The record with names in place of values, which go to `tensors`."""
    import numpy as np

    places = []
    for place in record["places"]:
        name = None
        if place["values"] is not None:
            name = str(len(tensors) // 2)
            for side, data in zip(("ours", "theirs"), place["values"], strict=True):
                tensors[f"{name}/{side}"] = np.frombuffer(data, dtype="<f4").reshape(place["shape"])
        places.append({**place, "values": name})
    return {**record, "places": places}


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder beside its place, then put it there: whoever looks sees the old run or the new one."""
    path = path.resolve()  # a link stays
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{token_hex(4)}")
    old = path.with_name(f".{path.name}-{token_hex(4)}-old")
    try:
        beside.mkdir()
        for name, content in files.items():
            (beside / name).write_bytes(content)
        if path.exists():
            path.rename(old)
        beside.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def read(path: str | Path) -> SavedRun:
    """Read a saved run; its values stay on disk until they are asked for.

    Raises:
        BadInputError: there is none at `path`, it is of another version, or it is damaged.
    """
    path = Path(path)
    folder = path.parent if path.name == RUN else path
    file = folder / RUN
    try:
        if file.stat().st_size > MOST_JSON:
            raise BadInputError(f"{file}: is too large for a saved run")
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(
            f"{path}: there is no saved run (pytest --genmodel-save-run={folder} ... makes one)"
        ) from None
    except (ValueError, RecursionError, NotADirectoryError):
        raise BadInputError(
            f"{path}: is no saved run (the folder that pytest --genmodel-save-run has made)"
        ) from None
    if not isinstance(document, dict) or "genmodel_run" not in document:
        raise BadInputError(f"{path}: is no saved run of --genmodel-save-run")
    if document["genmodel_run"] != FORMAT:
        raise BadInputError(
            f"{path}: a saved run of format {document['genmodel_run']!r}, and this version reads format {FORMAT}"
        )
    report, comparisons, policy = (document.get(name) for name in ("report", "comparisons", "policy"))
    if not (isinstance(report, dict) and isinstance(comparisons, dict) and isinstance(policy, dict)):
        raise BadInputError(f"{path}: its {RUN} is damaged")
    if report.get("schema") != SCHEMA:
        raise BadInputError(f"{path}: the report in its {RUN} is damaged")
    if (what := damage(report, comparisons)) is not None:
        raise BadInputError(f"{path}: its {RUN} is damaged: {what}")
    left_out = document.get("left_out")
    return SavedRun(
        folder, report, comparisons, policy, tuple(map(str, left_out)) if isinstance(left_out, list) else ()
    )
