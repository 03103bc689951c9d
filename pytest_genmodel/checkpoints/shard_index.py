"""The index of a weight set in several files: which of them holds which tensor, and whether that is true.

The names in an index come from whoever made the checkpoint. They are plain names of files beside it, or the index is
refused; a file itself may be a link, as everything is in the cache of the Hugging Face hub, and is then followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.json_file import read_json
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.weight_set import WeightSet

_SHARD = re.compile(r"-(?P<number>\d{5})-of-(?P<count>\d{5})(?=\.)")
_AGAIN = "Save the checkpoint again, whole, into an empty folder."


@dataclass(frozen=True)
class ShardIndex:
    """`weight_map` gives for each tensor the name of its file; `total_size` is what the index says, in bytes."""

    path: Path
    weight_map: Mapping[str, str]
    total_size: int | None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it names, sorted."""
        return tuple(self.path.parent / name for name in sorted(set(self.weight_map.values())))


@dataclass(frozen=True)
class Disagreement:
    """How far an index and the headers of its files tell different stories; all empty where they agree."""

    unlisted: tuple[str, ...]
    """Tensors in the files that the index does not know. The libraries load them all the same."""
    elsewhere: tuple[str, ...]
    """Tensors that lie in another of the files than the index says."""
    claimed_size: int | None
    """The bytes of all tensors as the index says, where that is not `size`; None where it is, or says nothing."""
    size: int


def read_index(path: Path) -> ShardIndex:
    """Read an index.

    Raises:
        DamagedFileError: it is no JSON, has no map, or names anything but plain files of its container beside it.
    """
    stored = read_json(path)
    weight_map = stored.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DamagedFileError(
            path,
            Damage.INDEX,
            "no weight_map",
            action="Save the checkpoint again; the shard index is broken.",
        )
    container = ".safetensors" if ".safetensors." in path.name else ".bin"
    for name in sorted({str(name) for name in weight_map.values()}):
        # A backslash separates folders on Windows alone; a checkpoint must mean the same everywhere.
        if Path(name).name != name or "\\" in name or not name.endswith(container):
            raise DamagedFileError(
                path,
                Damage.INDEX,
                f"the shard {_short(name)} is no {container} file of the folder",
                action="Do not load this checkpoint: a shard index names plain files beside it, nothing else.",
            )
    metadata = stored.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if (
        not isinstance(total, (int, float)) or not -1 << 63 < total < 1 << 63
    ):  # Python's JSON knows infinities
        total = None
    return ShardIndex(path, weight_map, None if total is None else int(total))


def check_promises(index: ShardIndex, weights: WeightSet) -> None:
    """Check that every tensor that the index promises is in one of its files.

    Raises:
        DamagedFileError: one is in none of them: loading would leave it as it was initialised.
    """
    absent = [name for name in index.weight_map if name not in weights.tensors]
    if absent:
        raise DamagedFileError(
            index.path,
            Damage.INDEX,
            f"{len(absent)} of the {len(index.weight_map)} tensors that it lists are in none of its files, the first "
            f"is {_short(absent[0])}",
            action=_AGAIN,
        )


def disagreement(index: ShardIndex, weights: WeightSet) -> Disagreement:
    """Compare an index with the files that it names."""
    tensors = weights.tensors.values()
    size = sum(prod(tensor.shape) * DTYPE_BITS.get(tensor.dtype, 0) for tensor in tensors) // 8
    return Disagreement(
        unlisted=tuple(tensor.name for tensor in tensors if tensor.name not in index.weight_map),
        elsewhere=tuple(
            tensor.name
            for tensor in tensors
            if index.weight_map.get(tensor.name, tensor.file.name) != tensor.file.name
        ),
        claimed_size=index.total_size if index.total_size != size else None,
        size=size,
    )


def shard_of(path: Path) -> tuple[int, int] | None:
    """Number and count, where the name of `path` says that it is one file of several: (2, 4)."""
    match = _SHARD.search(path.name)
    return (int(match["number"]), int(match["count"])) if match and int(match["count"]) > 1 else None


def _short(name: str) -> str:
    return repr(name) if len(name) <= 200 else f"{name[:200]!r}..."
