"""SwissArmyTransformer: `latest`, a folder for each iteration, and in it one pickle with every component."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NoReturn

from pytest_genmodel.checkpoints.alpha import sat_configuration
from pytest_genmodel.checkpoints.checkpoint import Adapter, Checkpoint, Kind
from pytest_genmodel.checkpoints.containers import DENOISER, PREFIXES, Part, census, components_of
from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError, UnreadableCheckpointError
from pytest_genmodel.checkpoints.keymaps import sat
from pytest_genmodel.checkpoints.keymaps.rules import left_out, map_weights
from pytest_genmodel.checkpoints.pickle_names import texts_in
from pytest_genmodel.checkpoints.weights import PickledWeights, WeightSet

WRITTEN_BY = "SwissArmyTransformer (SAT)"
LATEST = "latest"
STATES = "mp_rank_00_model_states.pt"
_SECOND_RANK = re.compile(r"^mp_rank_(?!00)\d\d_model_states\.pt$")
_ZERO_3 = re.compile(r"^z3_rank_\d+_model_states\.pt$")
_OF_EMA = "-ema"
_ITERATION = re.compile(r"([0-9]+|release)(-ema)?")
"""What SAT calls the folder of a save, and so all that its `latest` can say."""
_FACTOR = re.compile(r"\.matrix_[AB]\.\d+$")


def recognises(path: Path) -> bool:
    """Whether `path` is a states file of SAT, the folder of an iteration, or the folder with `latest`."""
    if path.is_file():
        return path.suffix == ".pt" and _is_sats(path)
    if any(_ZERO_3.match(entry.name) for entry in path.iterdir()):
        return True
    if (path / STATES).is_file():
        return _is_sats(path / STATES)
    name = _latest(path)
    if name is None:
        return False
    named = path / name
    if not named.is_dir():  # of DeepSpeed only SAT calls its folders so
        return True
    return recognises(named)


def read(path: Path, spec: str) -> Checkpoint:
    """Give the components of the iteration that is meant; a transformer that wears a LoRA comes with it as adapter.

    The wrapped layers are then read as the base's, and the factors are the adapter and are among the transformer's
    tensors as well: whoever loads this file as a bare model passes over them.

    Raises:
        UnreadableCheckpointError: a save that was broken off, or a file for each of several processes.
        DamagedFileError: `latest` names a folder that is not there, or the file cannot be read.
    """
    file = path if path.is_file() else _states_file(path, spec)
    names = texts_in(file)
    parts = census(names)
    opened = functools.cache(lambda: PickledWeights((file,), numpy_state=True))
    return Checkpoint(
        spec=spec,
        root=path,
        kind=Kind.WEIGHTS,
        written_by=WRITTEN_BY,
        components=components_of(parts, file.parent, opened),
        adapter=_adapter(file, parts, opened()) if any(map(_FACTOR.search, names)) else None,
    )


def _states_file(path: Path, spec: str) -> Path:
    folder = path
    if not _holds_states(path):
        name = _latest(path) or ""
        folder = path / name
        if not folder.is_dir():
            raise DamagedFileError(
                path / LATEST,
                Damage.MISSING_FILE,
                f"it names the iteration {name!r}, and there is no folder of that name",
                action="Copy the iteration's folder too, or give the folder of another one.",
            )
        if name.endswith(_OF_EMA):
            raw = path / name.removesuffix(_OF_EMA)
            beside = f" or {spec}/{raw.name}" if raw.is_dir() else ""
            _refuse(
                f"{spec}: latest names {name}, which SAT writes before the weights themselves: the save was broken "
                f"off. Say which is meant: {spec}/{name}{beside}"
            )
    entries = sorted(entry.name for entry in folder.iterdir())
    if any(map(_SECOND_RANK.match, entries)):
        count = sum(name.startswith("mp_rank_") and name.endswith("_model_states.pt") for name in entries)
        _refuse(
            f"{spec}: {count} files mp_rank_*_model_states.pt: each holds a part of every layer (tensor "
            "parallelism); merge them with SAT's own script (one model-parallel rank), and give the result"
        )
    if STATES not in entries:
        _refuse(
            f"{spec}: SAT's files of ZeRO stage 3 (z3_rank_*_model_states.pt): each holds a stretch of every tensor, "
            "and is not put together here; save with stage 2, or gather the weights when saving"
        )
    return folder / STATES


def _holds_states(folder: Path) -> bool:
    return any(entry.name == STATES or _ZERO_3.match(entry.name) for entry in folder.iterdir())


def _latest(folder: Path) -> str | None:
    """The folder's name that `latest` gives; None where it gives none of SAT's."""
    file = folder / LATEST
    if not file.is_file() or file.stat().st_size > 256:
        return None
    name = file.read_text(encoding="utf-8", errors="replace").strip()
    return name if _ITERATION.fullmatch(name) else None


def _is_sats(file: Path) -> bool:
    names = texts_in(file)
    bare = [name.removeprefix(PREFIXES[DENOISER][0]) for name in names]
    return sat.TRANSFORMER.knows(bare)


def _adapter(file: Path, parts: tuple[Part, ...], stored: WeightSet) -> Adapter:
    prefixes = next((part.prefixes for part in parts if part.component == DENOISER), ("",))
    rules = (*sat.LORA, *left_out("{rest}"))
    weights = map_weights(stored, rules, prefixes, give=f"{DENOISER}.")
    return Adapter(file.parent, file, weights, sat_configuration(file.parent) or {})


def _refuse(message: str) -> NoReturn:
    raise UnreadableCheckpointError(message)
