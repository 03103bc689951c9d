"""The weights of a DeepSpeed checkpoint: the float32 master, put together from the partitions of every rank.

ZeRO cuts each group of parameters, laid end to end, into one stretch a rank (stages 1 and 2), or each parameter
into one piece a rank (stage 3). The model file says which parameters there are, in which order, and holds the weights
that the forward pass used, in the dtype of training: at stage 3 as placeholders without elements, which are never
taken for weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_genmodel.checkpoints.damage import Damage, DamagedFileError
from pytest_genmodel.checkpoints.pickles.loading import Inert, load
from pytest_genmodel.checkpoints.placed import Placed, PlacedWeights, is_row_major
from pytest_genmodel.checkpoints.safetensors_header import DTYPE_BITS
from pytest_genmodel.checkpoints.sharded.zero_files import ZeroFiles, check_ranks, missing
from pytest_genmodel.checkpoints.spans import Span, Spans, cut, size_of
from pytest_genmodel.checkpoints.weight_set import spelled

if TYPE_CHECKING:
    import torch

STUBS: Mapping[str, type[Inert]] = dict.fromkeys(
    (
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    ),
    Inert,
)
"""Names of DeepSpeed's that stand in its files, and of which nothing is needed here: deepspeed is not imported."""

_SHAPE_LIMIT = 1 << 48


class ZeroWeights(PlacedWeights):
    """The weights of one save, with buffers and frozen parameters.

    `module` are the weights as the forward pass used them (None at stage 3, where no file holds them): rounded to
    the dtype of training, so that they and the master may differ by that rounding. `is_master` says whether this
    set is the float32 master; without partitions it is `module` itself.

    Raises:
        DamagedFileError: a file is damaged or unsafe, a rank's file is missing, the files are of two saves, or the
            partitions do not hold what the model file lists.
    """

    def __init__(self, files: ZeroFiles) -> None:
        stage_three = files.whole is None
        models = [_ModelFile.read(path) for path in ([files.whole] if files.whole else files.shards.values())]
        model = models[0]
        self.is_master = bool(files.partitions and model.groups)
        placed: dict[str, Placed] = {}
        if stage_three:
            world = _world(files)
            check_ranks(files.shards, world, "the model file")
            placed |= {name: at for name, at in model.module.items() if name in model.buffers}
            placed |= _frozen_pieces(models, world)
            placed |= _master_pieces(model, _partitions(files, "fp32_flat_groups"), world)
        else:
            placed |= model.module
            placed |= model.frozen
            for name, shape in (item for group in model.groups for item in group.items()):
                _check_shape(model, name, shape)
            if self.is_master:
                world = _world(files)
                placed |= _master_stretches(
                    model, _partitions(files, "single_partition_of_fp32_groups"), world
                )
        for alias, name in model.shared.items():
            if name in placed:
                placed[alias] = placed[name]
        order = {name: placed[name] for name in model.module if name in placed}
        kind = "fp32 master, from the partitions of " if self.is_master else "the weights of the forward pass"
        ranks = f"{len(files.partitions)} rank{'s' * (len(files.partitions) > 1)}" if self.is_master else ""
        super().__init__(
            files.all, order | placed, {"weights": kind + ranks, "zero_stage": "3" if stage_three else "0-2"}
        )
        self.module = (
            None if stage_three else PlacedWeights((model.path,), model.module, {"weights": "forward pass"})
        )


@dataclass
class _ModelFile:
    """What a model file says. `groups` are the trained parameters' shapes in the order of the partitions."""

    path: Path
    module: dict[str, Placed] = field(default_factory=dict)
    groups: list[dict[str, tuple[int, ...]]] = field(default_factory=list)
    frozen: dict[str, Placed] = field(default_factory=dict)
    frozen_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()
    shared: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> _ModelFile:
        opened = _Opened(path)
        module = opened.value.get("module")
        if not isinstance(module, Mapping):
            raise _odd(path, "it has no dictionary of weights under 'module'", Damage.NOT_WEIGHTS)
        groups = opened.value.get("param_shapes") or []
        shared, buffers = opened.value.get("shared_params") or {}, opened.value.get("buffer_names") or []
        if not (isinstance(groups, list) and isinstance(shared, Mapping) and isinstance(buffers, list)):
            raise _odd(path, "its lists of parameters, buffers or shared parameters are no such lists")
        return _ModelFile(
            path,
            opened.tensors(module),
            [_shapes(path, group) for group in groups],
            opened.tensors(opened.value.get("frozen_param_fragments") or {}),
            _shapes(path, opened.value.get("frozen_param_shapes") or {}),
            frozenset(map(str, buffers)),
            {str(alias): str(name) for alias, name in shared.items()},
        )


class _Opened:
    """A file of DeepSpeed's: its dictionary, and where its tensors lie."""

    def __init__(self, path: Path) -> None:
        self._path = path
        loaded = load(path, stubs=STUBS, numpy_state=True)
        if not isinstance(loaded.value, Mapping):
            raise _odd(path, "it holds no dictionary", Damage.NOT_WEIGHTS)
        self.value: Mapping[Any, Any] = loaded.value
        self._mapped_at = loaded.mapped_at

    def tensors(self, named: object) -> dict[str, Placed]:
        """Place the tensors of a dictionary; what is none is no weight."""
        import torch

        if not isinstance(named, Mapping):
            raise _odd(self._path, "a dictionary of tensors is none")
        return {
            str(name): self.place(value) for name, value in named.items() if isinstance(value, torch.Tensor)
        }

    def place(self, tensor: torch.Tensor) -> Placed:
        """Where the elements of a tensor lie in the file."""
        import torch

        name = str(tensor.dtype).removeprefix("torch.")
        dtype, shape, size = spelled(name), tuple(tensor.shape), tensor.element_size()
        if (
            dtype is None
            or tensor.layout is not torch.strided
            or tensor.is_quantized
            or tensor.device.type != "cpu"
        ):
            raise _odd(
                self._path, f"a tensor in it is no plain one ({name}, {tensor.layout}, {tensor.device.type})"
            )
        if tensor.numel() == 0:
            return Placed(dtype, shape, ())
        stride = tuple(tensor.stride())
        last = 1 + sum((axis - 1) * step for axis, step in zip(shape, stride, strict=True))
        storage = tensor.untyped_storage()
        if max(tensor.numel(), tensor.storage_offset() + last) * size > storage.nbytes():
            raise _odd(
                self._path,
                f"a tensor claims {tensor.numel() * size} bytes of a storage of {storage.nbytes()}",
            )
        if self._mapped_at is None:
            raise _odd(self._path, "it is of torch before 1.6, or not laid out as torch lays its files out")
        begin = tensor.data_ptr() - self._mapped_at
        straight = is_row_major(shape, stride)
        return Placed(
            dtype, shape, (Span(self._path, begin, begin + last * size),), None if straight else stride
        )


def _world(files: ZeroFiles) -> int:
    """The number of ranks that a partition counts, each of which has its file."""
    if not files.partitions:
        raise missing(
            files.folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "a ZeRO-3 model file holds placeholders without elements; the weights lie in the *_optim_states.pt of "
            "every rank, and none is there",
        )
    path = next(iter(files.partitions.values()))
    count = _optimizer(path, _Opened(path)).get("partition_count")
    counts: list[Any] = count if isinstance(count, list) and count else [count]
    if not all(type(number) is int and 0 < number < 100_000 for number in counts):
        raise _odd(path, "it does not say between how many ranks it was partitioned")
    if len(set(counts)) > 1:
        raise _odd(path, f"its groups are partitioned between {', '.join(map(str, counts))} ranks (experts?)")
    check_ranks(files.partitions, counts[0], "the partition")
    return int(counts[0])


@dataclass(frozen=True)
class _Partition:
    """A rank's part of every group; `paddings` are elements that follow each parameter of a group (stages 1, 2)."""

    path: Path
    groups: tuple[Placed, ...]
    paddings: tuple[tuple[int, ...], ...]


def _partitions(files: ZeroFiles, key: str) -> list[_Partition]:
    import torch

    found = []
    for path in files.partitions.values():
        opened = _Opened(path)
        state = _optimizer(path, opened)
        groups = state.get(key)
        if isinstance(groups, torch.Tensor):
            groups = [groups]
        if not isinstance(groups, list) or not all(isinstance(group, torch.Tensor) for group in groups):
            raise _odd(path, f"it has no list of partitions under {key!r}")
        placed = tuple(map(opened.place, groups))
        for group in placed:
            if group.dtype != "F32" or len(group.shape) != 1 or group.stride is not None:
                raise _odd(
                    path, f"a partition is {group.dtype} {list(group.shape)}, not one stretch of float32"
                )
        paddings = state.get("param_alignment_paddings")
        found.append(_Partition(path, placed, _paddings(path, paddings)))
    if len({len(partition.groups) for partition in found}) > 1:
        raise _odd(found[-1].path, "its ranks do not have the same number of groups")
    return found


def _optimizer(path: Path, opened: _Opened) -> Mapping[str, Any]:
    state = opened.value.get("optimizer_state_dict")
    if not isinstance(state, Mapping):
        raise _odd(path, "it has no dictionary under 'optimizer_state_dict'", Damage.NOT_WEIGHTS)
    return state


def _paddings(path: Path, value: object) -> tuple[tuple[int, ...], ...]:
    groups = value if isinstance(value, list) else []
    for group in groups:
        if not isinstance(group, list) or not all(type(n) is int and 0 <= n < _SHAPE_LIMIT for n in group):
            raise _odd(path, "its paddings are no lists of whole numbers")
    return tuple(map(tuple, groups))


def _master_stretches(model: _ModelFile, partitions: Sequence[_Partition], world: int) -> dict[str, Placed]:
    """Stages 1 and 2: a group is its ranks' stretches end to end, and the parameters follow each other in it."""
    first = partitions[0]
    if len(model.groups) != len(first.groups):
        raise _of_two_saves(
            model.path,
            f"it lists {len(model.groups)} groups of parameters, the partitions hold {len(first.groups)}",
        )
    paddings = first.paddings or tuple((0,) * len(shapes) for shapes in model.groups)
    if list(map(len, paddings)) != list(map(len, model.groups)):
        raise _of_two_saves(first.path, "it does not have the parameters that the model file lists")
    placed: dict[str, Placed] = {}
    for number, shapes in enumerate(model.groups):
        stretch: Spans = tuple(span for partition in partitions for span in partition.groups[number].spans)
        at = 0
        for (name, shape), padding in zip(shapes.items(), paddings[number], strict=True):
            end = at + prod(shape)
            placed[name] = Placed("F32", shape, cut(stretch, at * 4, end * 4))
            at = end + padding
        _check_sum(model.path, at, size_of(stretch) // 4, 2 * world)
    return placed


def _check_sum(path: Path, needed: int, held: int, alignment: int) -> None:
    """What is left over may only be the padding to a multiple of `alignment`, which newer versions do not store."""
    if ceil(needed / alignment) != ceil(held / alignment):
        raise _of_two_saves(path, f"its parameters have {needed} elements, the partitions beside it {held}")


def _of_two_saves(path: Path, what: str) -> DamagedFileError:
    return DamagedFileError(
        path,
        Damage.INDEX,
        what,
        action="Save again into an empty folder: the model file and the partitions come from two saves.",
    )


def _check_shape(model: _ModelFile, name: str, shape: tuple[int, ...]) -> None:
    """A parameter that was trained has the shape that it was partitioned with; a placeholder has none."""
    trained = model.module.get(name)
    if trained is not None and trained.shape != shape:
        raise _odd(
            model.path,
            f"{name[:200]!r} is {list(trained.shape)} in it and was trained as {list(shape)}"
            + (": a placeholder of ZeRO-3, which holds no weights" if 0 in trained.shape else ""),
            Damage.NOT_WEIGHTS,
        )


def _master_pieces(model: _ModelFile, partitions: Sequence[_Partition], world: int) -> dict[str, Placed]:
    """Stage 3: every parameter is cut into one piece a rank, and a rank's pieces follow each other."""
    stretches = [
        tuple(span for group in partition.groups for span in group.spans) for partition in partitions
    ]
    placed: dict[str, Placed] = {}
    at = 0
    for shapes in model.groups:
        for name, shape in shapes.items():
            piece = ceil(prod(shape) / world)
            spans = tuple(s for stretch in stretches for s in cut(stretch, at * 4, (at + piece) * 4))
            placed[name] = Placed("F32", shape, cut(spans, 0, prod(shape) * 4))
            at += piece
    for stretch in stretches:
        _check_sum(model.path, at, size_of(stretch) // 4, 1)
    return placed


def _frozen_pieces(models: Sequence[_ModelFile], world: int) -> dict[str, Placed]:
    """Stage 3: frozen parameters have no master; each rank's model file holds its piece, in the dtype of training."""
    placed: dict[str, Placed] = {}
    for name, shape in models[0].frozen_shapes.items():
        pieces = [model.frozen.get(name) for model in models]
        for model, piece in zip(models, pieces, strict=True):
            if piece is None or piece.stride is not None or piece.dtype != (pieces[0] or piece).dtype:
                raise _odd(
                    model.path, f"its piece of the frozen {name[:200]!r} is not there, or not like the others"
                )
        dtype = pieces[0].dtype if pieces[0] else "F32"
        spans = tuple(span for piece in pieces if piece for span in piece.spans)
        needed = prod(shape) * DTYPE_BITS[dtype] // 8
        if not needed <= size_of(spans) < needed + world * DTYPE_BITS[dtype] // 8:
            raise _odd(
                models[0].path,
                f"the pieces of the frozen {name[:200]!r} are {size_of(spans)} bytes of {needed}",
            )
        placed[name] = Placed(dtype, shape, cut(spans, 0, needed))
    return placed


def _shapes(path: Path, group: object) -> dict[str, tuple[int, ...]]:
    shapes = (
        {str(name): tuple(shape) for name, shape in group.items()} if isinstance(group, Mapping) else None
    )
    sizes = [size for shape in (shapes or {}).values() for size in shape]
    if shapes is None or not all(type(size) is int and size >= 0 for size in sizes):
        raise _odd(path, "its shapes are no whole numbers")
    if any(prod(size or 1 for size in shape) > _SHAPE_LIMIT for shape in shapes.values()):
        raise _odd(path, "a shape of more elements than a file can hold")
    return shapes


def _odd(path: Path, what: str, damage: Damage = Damage.PICKLE) -> DamagedFileError:
    return DamagedFileError(
        path,
        damage,
        what,
        action="Save the checkpoint again with DeepSpeed, or give consolidated weights (safetensors).",
    )
