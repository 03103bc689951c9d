"""The model's tensors of a torch distributed checkpoint (DCP), put together from the chunks of every rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.placed import Placed, read_placed
from pytest_genmodel.checkpoints.sharded.dcp_item import read_item
from pytest_genmodel.checkpoints.sharded.dcp_metadata import FILE, Chunk, Chunked, read_metadata
from pytest_genmodel.checkpoints.spans import Span, Spans
from pytest_genmodel.checkpoints.weights import StoredTensor, WeightSet, torch_dtype

if TYPE_CHECKING:
    import torch

MODEL_KEYS = ("model", "module", "state_dict")
"""Under which key of a trainer's dictionary the model lies."""
STATE_KEYS = frozenset(
    (
        *(
            "optimizer",
            "optim",
            "optimizers",
            "lr_scheduler",
            "scheduler",
            "train_state",
            "dataloader",
            "scaler",
        ),
        *(
            "rng_state",
            "random_states",
            "trainer",
            "loss_scaler",
            "step",
            "epoch",
            "ema",
            "ema_model",
            "model_ema",
        ),
    )
)
"""What lies beside the model: a trainer's state, and averages of the weights, which are no part of the model."""


class DcpWeights(WeightSet):
    """The weights of a folder with `.metadata`; a chunk is looked into when its tensor is asked for.

    `state` are the keys of tensors and objects that are no weights of the model.

    Raises:
        DamagedFileError: see `read_metadata`; or a tensor's chunks overlap or leave a part of it out, or there is no
            model in it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        index = read_metadata(folder)
        names, self.unexplained, state = _sorted_out(index.tensors)
        self.state = (*state, *index.objects)
        if not names:
            holds = ", ".join(repr(key[:40]) for key in [*index.tensors, *index.objects][:5]) or "nothing"
            raise DamagedFileError(
                folder / FILE,
                Damage.NOT_WEIGHTS,
                f"no weights of a model are in it, but {holds}",
                action="Give the folder with the model's own checkpoint; this one is a trainer's state.",
            )
        self._chunked = {name: index.tensors[key] for name, key in names.items()}
        for name, chunked in self._chunked.items():
            _check_tiling(folder / FILE, name, chunked)
        files = {chunk.place.path: None for chunked in self._chunked.values() for chunk in chunked.chunks}
        self.files = (folder / FILE, *files)
        self.metadata = {"format": "torch.distributed.checkpoint", "files": str(len(files))}
        self.tensors = {
            name: StoredTensor(name, chunked.dtype, chunked.shape, _file(chunked, folder))
            for name, chunked in self._chunked.items()
        }
        self._items: dict[Span, Placed] = {}

    def spans(self, name: str) -> Spans | None:
        """Where the bytes lie; None where chunks split other dimensions than the first, or are transposed."""
        chunked = self._chunked[name]
        found: list[Span] = []
        if not _in_slabs(chunked):
            return None
        for chunk in sorted(chunked.chunks, key=lambda chunk: chunk.offsets):
            item = self._item(name, chunk)
            if item.stride is not None:
                return None
            found.extend(item.spans)
        return tuple(found)

    def read(self, name: str) -> torch.Tensor:
        """Read the chunks of `name` into one tensor."""
        import torch

        chunked = self._chunked[name]
        spans = self.spans(name)
        if spans is not None:
            return read_placed(Placed(chunked.dtype, chunked.shape, spans))
        items = [self._item(name, chunk) for chunk in chunked.chunks]  # all are there before room is made
        whole = torch.empty(chunked.shape, dtype=torch_dtype(chunked.dtype))
        for chunk, item in zip(chunked.chunks, items, strict=True):
            place = tuple(slice(o, o + s) for o, s in zip(chunk.offsets, chunk.shape, strict=True))
            whole[place] = read_placed(item)
        return whole

    def _item(self, name: str, chunk: Chunk) -> Placed:
        if chunk.place not in self._items:
            item, stored = read_item(chunk.place), self.tensors[name]
            if (item.dtype, item.shape) != (stored.dtype, chunk.shape):
                raise DamagedFileError(
                    chunk.place.path,
                    Damage.INDEX,
                    f"a chunk of {name[:200]!r} is {item.dtype} {list(item.shape)}, and {FILE} says {stored.dtype} "
                    f"{list(chunk.shape)}",
                    action="Save the checkpoint again; its files come from two different saves.",
                    offset=chunk.place.begin,
                )
            self._items[chunk.place] = item
        return self._items[chunk.place]


def _file(chunked: Chunked, folder: Path) -> Path:
    return chunked.chunks[0].place.path if chunked.chunks else folder / FILE


def _sorted_out(tensors: Mapping[str, Chunked]) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    """Part the keys into the model's tensors (name -> key), what is unexplained, and a trainer's state.

    A dictionary with a model in it holds the model there and nowhere else. One without is a model's own.
    """
    paths = _paths(tensors)
    tops = dict.fromkeys(path[0] for path in paths.values() if len(path) > 1 and path[0] not in STATE_KEYS)
    model = next((key for key in MODEL_KEYS if key in tops), next(iter(tops)) if len(tops) == 1 else None)
    names: dict[str, str] = {}
    unexplained, state = [], []
    for key, path in paths.items():
        if len(path) > 1 and path[0] == model:
            names[".".join(path[1:])] = key
        elif path[0] in STATE_KEYS:
            state.append(key)
        elif model is None:
            names[key] = key
        else:
            unexplained.append(key)
    return names, tuple(unexplained), tuple(state)


def _paths(tensors: Mapping[str, Chunked]) -> dict[str, tuple[str, ...]]:
    """The keys that led to each tensor.

    A trainer may have joined the first with the name itself ("model.proj.bias"), which shows where all are so.
    """
    flat = {key: key.partition(".") for key, chunked in tensors.items() if len(chunked.path) == 1}
    joined = all(dot and top in (*MODEL_KEYS, *STATE_KEYS) for top, dot, _ in flat.values())
    paths = {
        key: (flat[key][0], flat[key][2]) if key in flat and joined else chunked.path
        for key, chunked in tensors.items()
    }
    tops = {path[0] for path in paths.values()}
    if len(tops) == 1 and tops.isdisjoint((*MODEL_KEYS, *STATE_KEYS)):
        below = {path[1] for path in paths.values() if len(path) > 1}
        if not below.isdisjoint(MODEL_KEYS):  # torch's own recipe keeps everything under "app"
            return {key: path[1:] or path for key, path in paths.items()}
    return paths


def _check_tiling(path: Path, name: str, chunked: Chunked) -> None:
    """Every element of the tensor must be in exactly one chunk."""
    total = 0
    for chunk in chunked.chunks:
        inside = len(chunk.offsets) == len(chunk.shape) == len(chunked.shape) and all(
            offset + size <= axis
            for offset, size, axis in zip(chunk.offsets, chunk.shape, chunked.shape, strict=True)
        )
        if not inside:
            raise _torn(
                path, name, f"a chunk at {list(chunk.offsets)} lies outside its shape {list(chunked.shape)}"
            )
        total += prod(chunk.shape)
    if (twice := _overlap(chunked.chunks)) is not None:
        raise _torn(path, name, f"two chunks hold what is at {list(twice)}")
    if total != prod(chunked.shape):
        raise _torn(path, name, f"its chunks hold {total} of its {prod(chunked.shape)} elements")


def _overlap(chunks: Sequence[Chunk]) -> tuple[int, ...] | None:
    """Where two chunks overlap: each is compared with those that are still open along the first dimension."""
    active: list[Chunk] = []
    for chunk in sorted((chunk for chunk in chunks if prod(chunk.shape)), key=lambda chunk: chunk.offsets):
        if not chunk.shape:
            if active:
                return ()
        else:
            active = [other for other in active if other.offsets[0] + other.shape[0] > chunk.offsets[0]]
            for other in active:
                if all(map(_meet, chunk.offsets, chunk.shape, other.offsets, other.shape)):
                    return chunk.offsets
        active.append(chunk)
    return None


def _meet(begin: int, size: int, other: int, other_size: int) -> bool:
    return begin < other + other_size and other < begin + size


def _in_slabs(chunked: Chunked) -> bool:
    """Whether every chunk takes all of the tensor's dimensions but the first."""
    return all(chunk.shape[1:] == chunked.shape[1:] for chunk in chunked.chunks)


def _torn(path: Path, name: str, what: str) -> DamagedFileError:
    return DamagedFileError(
        path,
        Damage.INDEX,
        f"tensor {name[:200]!r}: {what}",
        action="Save the checkpoint again with every rank; its list of chunks is not one of a whole tensor.",
    )
