"""The files of one DeepSpeed checkpoint (ZeRO stages 0 to 3), by their names: who wrote which, and who is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.errors import BadInputError

LATEST = "latest"
"""The file that names the folder of the last save."""

_MODEL = re.compile(r"^(?:zero_pp_rank_(?P<rank>\d{1,5})_)?mp_rank_(?P<split>\d{1,3})_model_states\.pt$")
_OPTIM = re.compile(
    r"^(?P<kind>bf16_)?zero_pp_rank_(?P<rank>\d{1,5})_mp_rank_(?P<split>\d{1,3})_optim_states\.pt$"
)
_FOREIGN = re.compile(r"^(layer_\d+.*(model_states|expert).*|expp_rank_\d+.*|.*expert_\d+_mp_rank.*)\.pt$")


@dataclass(frozen=True)
class ZeroFiles:
    """The files of a save. `whole` holds the model of stages 0 to 2; `shards` and `partitions` are by rank."""

    folder: Path
    whole: Path | None
    shards: Mapping[int, Path]
    partitions: Mapping[int, Path]

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file, the model's first."""
        return (*((self.whole,) if self.whole else ()), *self.shards.values(), *self.partitions.values())


def is_step_folder(path: Path) -> bool:
    """Whether DeepSpeed's files lie in `path`."""
    return path.is_dir() and any(
        _MODEL.match(entry.name) or _OPTIM.match(entry.name) for entry in path.iterdir()
    )


def latest_folder(path: Path) -> Path | None:
    """The folder that `latest` names, whether it is there or not; None where there is no `latest` of DeepSpeed's."""
    file = path / LATEST
    if not file.is_file() or file.stat().st_size > 256:
        return None
    tag = file.read_bytes().decode("utf-8", "replace").strip()
    return path / tag if tag and Path(tag).name == tag and tag not in (".", "..") else None


def find_files(folder: Path) -> ZeroFiles:
    """Sort the files of `folder`.

    Raises:
        BadInputError: the model was split between ranks (tensor, pipeline or expert parallelism).
        DamagedFileError: the files come from two saves, or a rank's file is missing among the others.
    """
    whole: Path | None = None
    shards: dict[int, Path] = {}
    partitions: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        model, optim = _MODEL.match(path.name), _OPTIM.match(path.name)
        match = model or optim
        if _FOREIGN.match(path.name) or (match and int(match["split"]) > 0):
            raise BadInputError(
                f"{folder.name}: {path.name} belongs to a model that was split between ranks (tensor, pipeline or "
                "expert parallelism), which is not read here: merge it with the trainer's own tool"
            )
        if model and model["rank"] is None:
            whole = path
        elif model:
            _add(shards, int(model["rank"]), path)
        elif optim:
            _add(partitions, int(optim["rank"]), path)
    if whole is not None and shards:
        raise _two_saves(whole, next(iter(shards.values())))
    files = ZeroFiles(folder, whole, dict(sorted(shards.items())), dict(sorted(partitions.items())))
    if whole is None and not shards:
        raise missing(
            folder / "mp_rank_00_model_states.pt",
            "the partitions of the weights are there without the file that says which tensors they hold",
        )
    return files


def check_ranks(found: Mapping[int, Path], count: int, what: str) -> None:
    """Check that ranks 0 to `count` - 1, and no others, wrote `found`.

    Raises:
        DamagedFileError: names the ranks whose files are missing, or the file of a rank that took no part.
    """
    lacking = [rank for rank in range(count) if rank not in found]
    if lacking:
        template = next(iter(found.values()))
        file = template.with_name(re.sub(r"pp_rank_\d+_", f"pp_rank_{lacking[0]}_", template.name))
        raise missing(
            file,
            f"{what} of {_ranks(lacking)} {'is' if len(lacking) == 1 else 'are'} not there ({count} ranks wrote this "
            f"checkpoint, {len(found)} are here)",
        )
    for rank, path in found.items():
        if rank >= count:
            raise DamagedFileError(
                path,
                Damage.INDEX,
                f"it is of rank {rank}, and {count} ranks wrote this checkpoint: it was left over from another save",
                action="Save again into an empty folder; nobody can tell which of the files belong together.",
            )


def missing(path: Path, what: str) -> DamagedFileError:
    """A file that should be there."""
    return DamagedFileError(
        path,
        Damage.MISSING_FILE,
        what,
        action="Copy the files of every rank into the folder (each node may have kept its own), or save again.",
    )


def _add(files: dict[int, Path], rank: int, path: Path) -> None:
    if rank in files:
        raise _two_saves(files[rank], path)
    files[rank] = path


def _two_saves(one: Path, other: Path) -> DamagedFileError:
    return DamagedFileError(
        other,
        Damage.INDEX,
        f"{one.name} is there too: the folder holds two saves of different settings",
        action="Save again into an empty folder; nobody can tell which of the files belong together.",
    )


def _ranks(numbers: Iterable[int]) -> str:
    numbers = list(numbers)
    shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"rank {shown}" if len(numbers) == 1 else f"ranks {shown}"
